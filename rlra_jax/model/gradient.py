"""Gradients of a batch: of the cross-entropy by one backward pass, and region by region at given errors."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlra_jax.loss import output_error, score, widen
from rlra_jax.model.axes import with_axes
from rlra_jax.model.capture import OUTPUT, Pass, forward
from rlra_jax.model.dependence import dependence
from rlra_jax.model.frontend import frontend, variable_shapes
from rlra_jax.types import Array, Aux, Batch, Model, PyTree, Variables


def loss_gradient(
    model: Model,
    variables: Variables,
    batch: Batch,
    key: Array,
    *,
    train_kwargs: Mapping[str, Any] | None = None,
) -> tuple[PyTree, Aux]:
    """The gradient in the tree of variables['params'], and what else is known after the pass.

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]`.
      variables: the model's, {'params': ..., ...}.
      batch: {'image': floating `[B, ...]`, 'label': integer `[B]`}.
      key: for dropout and every other random stream of the model.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
    """
    rest = {name: value for name, value in variables.items() if name != 'params'}

    def run(params: PyTree) -> tuple[Array, Variables]:
        return frontend(model).apply(model, {'params': params, **rest}, batch['image'], key, train_kwargs or {})

    logits, pull, state = jax.vjp(run, variables['params'], has_aux=True)
    (grads,) = pull((output_error(logits, batch['label']) / len(batch['label'])).astype(logits.dtype))
    logits = widen(logits)
    loss, error = score(logits, batch['label'])
    return grads, Aux(loss, error, logits, state, jnp.zeros(()))


def local_gradient(
    seen: Pass, pull: Callable[[Mapping[str, Array]], PyTree], errors: Mapping[str, Array], batch: Batch
) -> tuple[PyTree, Aux]:
    """Eq. 5 at errors of any learner's making, averaged over the batch, and what else is known after the cut pass.

    Args:
      seen: the cut pass.
      pull: its vector-Jacobian product; both from `capture.cut_vjp`.
      errors: region -> error per example `[B, ...]`.
      batch: {'image': floating `[B, ...]`, 'label': integer `[B]`}.
    """
    examples = batch['label'].shape[0]
    grads = pull({name: e / examples for name, e in errors.items()})
    logits = widen(seen.h[OUTPUT])
    loss, error = score(logits, batch['label'])
    return grads, Aux(loss, error, logits, seen.variables, jnp.zeros(()))


def check_slopes(model: Model, x: Array, train_kwargs: Mapping[str, Any] | None = None) -> None:
    """Raises ValueError, naming the Sites, if an activation has no derivative to learn by, as sign has not.

    Args:
      model: a linen or nnx module; one without Sites passes unseen.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      train_kwargs: further keyword arguments of the model's call.
    """
    flat: list[str] = []

    def run(variables: Variables, key: Array, x: Array) -> None:
        seen = forward(model, variables, x, rngs=key, train_kwargs=train_kwargs)
        for name, phi in seen.phi.items():
            z, pull = jax.vjp(phi, seen.h[name])
            if not any(dependence(pull, z)):
                flat.append(name)

    with_axes(jax.eval_shape, run, variable_shapes(model, x, train_kwargs), jax.random.key(0), x)
    if flat:
        raise ValueError(
            f'this learner needs the derivative of every activation, but that of Sites {flat} is zero everywhere, and '
            'only the layers above them would learn; rec_lra trains such units'
        )
