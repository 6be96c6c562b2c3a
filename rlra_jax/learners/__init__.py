"""Every training algorithm, by the name that configs use. A factory is called as factory(model, x, **options)."""

from collections.abc import Callable

from rlra_jax.learners.backprop import backprop
from rlra_jax.learners.rec_lra import rec_lra
from rlra_jax.types import Learner

LEARNERS: dict[str, Callable[..., Learner]] = {
    'backprop': backprop,
    'rec_lra': rec_lra,
}

__all__ = ['LEARNERS', 'backprop', 'rec_lra']
