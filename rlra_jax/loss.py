"""The loss of a batch, and the output's error neurons, which are its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlra_jax.types import Array


def widen(h: Array) -> Array:
    """At least float32: errors shrink like beta^depth and would cancel."""
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))


def output_error(logits: Array, label: Array) -> Array:
    """e_L = softmax(h_L) - y, the gradient of each example's cross-entropy in its logits.

    Args:
      logits: h_L `[B, classes]`.
      label: integer `[B]`.

    Returns:
      `[B, classes]`, float32 or wider.
    """
    wide = widen(logits)
    return jax.nn.softmax(wide) - jax.nn.one_hot(label, logits.shape[1], dtype=wide.dtype)


def score(logits: Array, label: Array) -> tuple[Array, Array]:
    """(mean cross-entropy in nats, share of errors) of a batch; the loss is NaN if a label is no class.

    Raises:
      ValueError: a label is no class and the labels are concrete, that is, outside jit.
    """
    classes, label = logits.shape[1], label.astype(jnp.int32)  # narrow types could not be compared with all classes
    inside = (label >= 0) & (label < classes)
    if not isinstance(inside, jax.core.Tracer) and not bool(inside.all()):
        came = np.unique(np.asarray(label))
        raise ValueError(f'labels of {classes} classes run from 0 to {classes - 1}; got {came[0]} to {came[-1]}')
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.where(inside, loss, jnp.nan).mean(), (logits.argmax(axis=1) != label).mean()
