"""Backpropagation of the mean cross-entropy: the yardstick."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.types import Array, Aux, Batch, Feedback, Learner, LocalGrads, Variables
from rlra_jax.validate import check_batch, score


def backprop(model: nn.Module, x: Array, *, train_kwargs: Mapping[str, Any] | None = None) -> Learner:
    """The gradient by `jax.grad`; Sites are plain activations, so the model needs none.

    Args:
      model: a linen module that maps images to logits `[B, classes]`.
      x: an example batch; not needed here, taken for the common signature.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
    """
    del x

    def init(key: Array, variables: Variables, batch: Batch) -> Feedback:
        del key, variables, batch
        return Feedback((), {})

    def update(variables: Variables, feedback: Feedback, batch: Batch, key: Array):
        check_batch(batch)
        rest = {name: value for name, value in variables.items() if name != 'params'}

        def loss_fn(params):
            logits, state = model.apply(
                {'params': params, **rest}, batch['image'], rngs=key, mutable=list(rest), **(train_kwargs or {})
            )
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            loss, error = score(logits, batch['label'])
            return loss, (error, logits, state)

        (loss, (error, logits, state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables['params'])
        return LocalGrads(grads, ()), feedback, Aux(loss, error, logits, dict(state), jnp.zeros(()))

    return Learner(init, update)
