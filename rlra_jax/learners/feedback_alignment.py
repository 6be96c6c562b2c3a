"""Feedback alignment (Lillicrap, Cownden, Tweed and Akerman, Nature Communications 2016)."""

from collections.abc import Mapping
from typing import Any

from rlra_jax.learners import policies
from rlra_jax.learners.backward import asymmetric
from rlra_jax.types import Array, Learner, Model


def feedback_alignment(model: Model, x: Array, *, train_kwargs: Mapping[str, Any] | None = None) -> Learner:
    """Backprop over fixed random weights in place of W^T; what the model must be, and what is raised: `asymmetric`."""
    return asymmetric(model, x, lambda paths: dict.fromkeys(paths, policies.fixed()), train_kwargs=train_kwargs)
