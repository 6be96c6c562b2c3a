"""The rule of Kolen and Pollack (1994), and of LRA-E's released code."""

import dataclasses
from typing import ClassVar

from rlra_jax.edges import Link, LinkSignals, Rule
from rlra_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class KolenPollack(Rule):
    """The transpose of the forward update, e_j x z_i.

    On a path the very update of the parameters that E stands for: E - W decays where both sides decay and share an
    optimizer.
    """

    sums: ClassVar[bool] = False
    from_nothing: ClassVar[bool] = True

    def learn(self, link: Link, signals: LinkSignals) -> PyTree:
        if link.edges[0].kind.follows:
            return {name: signals.params[name].astype(value.dtype) for name, value in signals.E.items()}
        return link.correlate(signals.E, signals.e, signals.z)
