"""LRA-E, error-driven local representation alignment (Ororbia and Mali, AAAI 2019): rec-LRA without the recursion."""

from collections.abc import Mapping
from typing import Any

from rlra_jax.learners.rec_lra import make_learner
from rlra_jax.model.regions import sites
from rlra_jax.rules import KolenPollack
from rlra_jax.types import Array, Learner, Model
from rlra_jax.wiring.wirings import wire_chain


def lra_e(model: Model, x: Array, *, train_kwargs: Mapping[str, Any] | None = None, **options: Any) -> Learner:
    """Every region hears from the one above it, over synapses that learn as the forward ones do (rule `KolenPollack`).

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]` and whose activations are Sites.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      train_kwargs: further keyword arguments of the model's call.
      **options: of `make_learner` and `update_fn`: synapse_std, allow, beta, gamma, kappa, alpha, ...

    Raises:
      ValueError: an option out of range; by `Learner.init`, as `init_feedback`.
      TypeError: an unknown option.
    """
    wiring = wire_chain(sites(model, x, train_kwargs=train_kwargs), rule=KolenPollack())
    return make_learner(model, wiring, train_kwargs=train_kwargs, **options)
