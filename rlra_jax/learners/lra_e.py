"""LRA-E, error-driven local representation alignment (Ororbia and Mali, AAAI 2019): rec-LRA without the recursion."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from rlra_jax.capture import sites
from rlra_jax.types import Array, Learner
from rlra_jax.wired import make_learner
from rlra_jax.wiring import wire_chain


def lra_e(model: nn.Module, x: Array, *, train_kwargs: Mapping[str, Any] | None = None, **options: Any) -> Learner:
    """Every region hears from the one above it, over synapses that learn as the forward ones do (rule `kp`).

    Args:
      model: a linen module that maps images to logits `[B, classes]` and whose activations are Sites.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      train_kwargs: further keyword arguments of the model's call.
      **options: of `make_learner` and `update_fn`: synapse_std, allow, beta, gamma, kappa, alpha, ...
    """
    wiring = wire_chain(sites(model, x, train_kwargs=train_kwargs), rule='kp')
    return make_learner(model, wiring, train_kwargs=train_kwargs, **options)
