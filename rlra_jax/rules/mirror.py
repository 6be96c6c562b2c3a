"""The weight mirror that reaches across layers."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from rlra_jax.edges import Link, LinkSignals, Rule, Wiring
from rlra_jax.types import PyTree
from rlra_jax.validate import require_count, require_flag, require_number


@dataclasses.dataclass(frozen=True)
class Mirror(Rule):
    """E learns the Jacobian between its regions from noisy forward passes (`noisy_passes.py`), and rests in between.

    Attributes:
      std: of the noise, in units of the activity. Added to an activity of 16 and more, 0.1 is lost to the rounding of
        bfloat16.
      every: the passes run in every so many steps.
      antithetic: whether they run in pairs, with the noise and with its negative, which cancels the response's even
        part. A single pass does where no edge skips a layer.

    Raises:
      ValueError: std is not above 0, every is no whole number of at least 1, or antithetic neither True nor False.
    """

    std: float = 0.1
    every: int = 1
    antithetic: bool = True

    noisy: ClassVar[bool] = True
    from_nothing: ClassVar[bool] = True
    rate: ClassVar[float] = 0.3  # or 1 where all edges join neighbours

    def __post_init__(self) -> None:
        require_number('std', self.std, 0, above=True)
        require_count('every', self.every)
        require_flag('antithetic', self.antithetic)

    def learn(self, link: Link, signals: LinkSignals) -> PyTree:
        return jax.tree.map(jnp.zeros_like, signals.E)


def mirror_of(wiring: Wiring) -> Mirror | None:
    """The rule of the edges that learn from noise: `wire` sees to it that they share one. None if there are none."""
    return next((edge.rule for edge in wiring.edges if isinstance(edge.rule, Mirror)), None)
