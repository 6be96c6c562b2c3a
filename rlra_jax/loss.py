"""Losses, and the output's error neurons, which are a loss's derivative."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlra_jax.types import Array, Batch, Loss, Outputs
from rlra_jax.validate import require, require_number


def widen(h: Array) -> Array:
    """At least float32: errors shrink like beta^depth and would cancel."""
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))


def softmax_cross_entropy(outputs: Array, batch: Batch) -> Array:
    """The default loss: cross-entropy in nats with batch['label'].

    Args:
      outputs: logits `[B, ..., classes]`.
      batch: its 'label' is integer `[B, ...]`, a class for each row of logits; several of an example are averaged.

    Returns:
      `[B]`; where a label is no class NaN, and so is its derivative: nothing trains on it.

    Raises:
      ValueError: the outputs are several; there is no such 'label'; or a label is no class and the labels are concrete,
        that is, outside jit.
    """
    if isinstance(outputs, Mapping):
        raise ValueError(
            f'the default loss takes one array of logits; the model returns several outputs, {sorted(outputs)}: '
            'hand over a loss of them, loss(outputs, batch) -> [B]'
        )
    label: Any = batch.get('label')
    dtype = getattr(label, 'dtype', None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or label.shape != outputs.shape[:-1]:
        came = type(label).__name__ if dtype is None else f'{dtype} {label.shape}'
        raise ValueError(
            f"batch['label'] must hold an integer class for each row of the outputs {outputs.shape}; got {came}. "
            'For others hand over a loss: loss(outputs, batch) -> [B]'
        )
    classes, label = outputs.shape[-1], label.astype(jnp.int32)  # narrow types could not be compared with all classes
    inside = (label >= 0) & (label < classes)
    if not isinstance(inside, jax.core.Tracer) and not bool(inside.all()):
        low, high = np.asarray(label).min(), np.asarray(label).max()
        raise ValueError(f'labels of {classes} classes run from 0 to {classes - 1}; got {low} to {high}')
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, label)
    losses = losses * jnp.where(inside, 1.0, jnp.nan).astype(losses.dtype)  # a product: its derivative is NaN, too
    return losses.mean(axis=tuple(range(1, losses.ndim)))


def smoothed_cross_entropy(share: float) -> Loss:
    """`softmax_cross_entropy` with smoothed labels: a share of each goes evenly to all classes (Szegedy et al. 2016).

    Args:
      share: from 0, which is the plain one, to 1.

    Raises:
      ValueError: the share is out of range.
    """
    require_number('share', share, 0, 1)
    if not share:
        return softmax_cross_entropy

    def loss(outputs: Array, batch: Batch) -> Array:
        sharp = softmax_cross_entropy(outputs, batch)
        even = -jax.nn.log_softmax(outputs).mean(axis=-1)
        return (1 - share) * sharp + share * even.mean(axis=tuple(range(1, even.ndim)))

    return loss


def require_loss(loss: Any) -> None:
    """Raises ValueError unless loss is a function."""
    require(callable(loss), 'loss', 'a function of outputs and batch that returns [B]', loss)


def of_each(loss: Loss, outputs: Outputs, batch: Batch) -> Array:
    """The loss of each example `[B]`; raises as `loss_and_error` does."""
    losses, size = loss(outputs, batch), len(jax.tree.leaves(outputs)[0])
    if jnp.shape(losses) != (size,):
        raise ValueError(f'a loss returns a number for each of the {size} examples; got shape {jnp.shape(losses)}')
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise ValueError(f'a loss returns floating numbers, which have a derivative; got {losses.dtype}')
    return losses


def loss_and_error(loss: Loss, outputs: Outputs, batch: Batch) -> tuple[Array, Outputs]:
    """(the mean loss of a batch, e_L = the derivative of each example's loss in its outputs).

    Args:
      loss: (outputs, batch) -> `[B]`.
      outputs: h_L `[B, ...]`, or several by name.
      batch: what the loss reads.

    Returns:
      ([], what is like the outputs), float32 or wider.

    Raises:
      ValueError: the loss does not return a floating number for each example.
    """

    def total(outputs: Outputs) -> tuple[Array, Array]:
        losses = of_each(loss, outputs, batch)
        return losses.sum(), losses.mean()

    error, mean = jax.grad(total, has_aux=True)(jax.tree.map(widen, outputs))
    return mean, error
