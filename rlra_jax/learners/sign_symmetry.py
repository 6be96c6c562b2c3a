"""Sign symmetry (Liao, Leibo and Poggio, AAAI 2016; Xiao, Chen, Liao and Poggio, ICLR 2019)."""

from collections.abc import Mapping
from typing import Any

from rlra_jax.learners import policies
from rlra_jax.learners.backward import asymmetric
from rlra_jax.types import Array, Learner, Model


def sign_symmetry(
    model: Model, x: Array, *, magnitude: str = 'uniform', train_kwargs: Mapping[str, Any] | None = None
) -> Learner:
    """Backward weights that share the signs of W, and nothing else.

    Args:
      model: what it must be, and what is raised: see `asymmetric`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      magnitude: 'uniform' (uSF), 'batchwise' (brSF) or 'fixed' (frSF); see `policies.sign`.
      train_kwargs: further keyword arguments of the model's call.
    """
    policy = policies.sign(magnitude)
    return asymmetric(model, x, lambda paths: dict.fromkeys(paths, policy), train_kwargs=train_kwargs)
