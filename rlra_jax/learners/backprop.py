"""Backpropagation of the mean cross-entropy: the yardstick."""

from collections.abc import Mapping
from typing import Any

from rlra_jax.model.gradient import check_slopes, loss_gradient
from rlra_jax.model.inputs import checked_learner
from rlra_jax.types import Array, Batch, Feedback, Learner, LocalGrads, Model, Variables


def backprop(model: Model, x: Array, *, train_kwargs: Mapping[str, Any] | None = None) -> Learner:
    """The gradient by `jax.grad`; Sites are plain activations, so the model needs none.

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.

    Raises:
      ValueError: an activation without a derivative.
    """
    check_slopes(model, x, train_kwargs)

    def init(key: Array, variables: Variables, batch: Batch) -> Feedback:
        del key, variables, batch
        return Feedback((), {})

    def update(variables: Variables, feedback: Feedback, batch: Batch, key: Array):
        grads, aux = loss_gradient(model, variables, batch, key, train_kwargs=train_kwargs)
        return LocalGrads(grads, ()), feedback, aux

    return checked_learner(Learner(init, update), model, train_kwargs)
