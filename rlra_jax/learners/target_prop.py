"""Target propagation (Le Cun 1986; Bengio 2014; as compared by Lee, Zhang, Fischer and Bengio, ECML 2015)."""

from collections.abc import Mapping
from typing import Any

from rlra_jax.learners.inverses import inverse_learner
from rlra_jax.types import Array, Learner, Model


def target_prop(
    model: Model,
    x: Array,
    *,
    step: float = 0.3,
    noise: float = 0.1,
    synapse_std: float = 0.05,
    train_kwargs: Mapping[str, Any] | None = None,
) -> Learner:
    """Targets by learned inverses, y_i = g_i(y_{i+1}); arguments and errors: `inverses.inverse_learner`."""
    return inverse_learner(
        model, x, difference=False, step=step, noise=noise, synapse_std=synapse_std, train_kwargs=train_kwargs
    )
