"""Weight mirrors (Akrout, Wilson, Humphreys, Lillicrap and Tweed, NeurIPS 2019)."""

from collections.abc import Mapping
from typing import Any

from rlra_jax.learners import policies
from rlra_jax.learners.backward import asymmetric
from rlra_jax.types import Array, Learner, Model
from rlra_jax.validate import require_count


def weight_mirror(
    model: Model, x: Array, *, mirror_every: int = 1, train_kwargs: Mapping[str, Any] | None = None
) -> Learner:
    """Backward weights that learn W from noise, in mirror phases between the engaged ones.

    An engaged phase is one batch; then every operation gets white noise in place of its input, and the correlation
    with its response moves E, while W stands still.

    Args:
      model: what it must be, and what is raised: see `asymmetric`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      mirror_every: engaged phases to one mirror phase, at least 1.
      train_kwargs: further keyword arguments of the model's call.
    """
    require_count('mirror_every', mirror_every)
    policy = policies.weight_mirror()
    return asymmetric(
        model, x, lambda paths: dict.fromkeys(paths, policy), mirror_every=mirror_every, train_kwargs=train_kwargs
    )
