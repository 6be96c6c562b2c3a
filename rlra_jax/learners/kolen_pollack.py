"""Kolen-Pollack learning (Kolen and Pollack 1994; as a backward pass of deep networks, Akrout et al. 2019)."""

from collections.abc import Mapping
from typing import Any

from rlra_jax.learners import policies
from rlra_jax.learners.backward import asymmetric
from rlra_jax.types import Array, Learner, Model


def kolen_pollack(
    model: Model, x: Array, *, decay: float = 1e-4, train_kwargs: Mapping[str, Any] | None = None
) -> Learner:
    """Backward weights that take the updates of the forward ones, both with weight decay.

    Give the synapses the same optimizer as the parameters: the two only meet if they take the same steps.

    Args:
      model: what it must be, and what is raised: see `asymmetric`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      decay: added, times the weights, to the update of W and of E; 0 or more.
      train_kwargs: further keyword arguments of the model's call.
    """
    policy = policies.kolen_pollack(decay)
    return asymmetric(model, x, lambda paths: dict.fromkeys(paths, policy), train_kwargs=train_kwargs)
