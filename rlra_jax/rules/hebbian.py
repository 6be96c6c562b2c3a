"""Eq. 6 of the paper, as printed."""

import dataclasses

from rlra_jax.edges import Link, LinkSignals, Rule
from rlra_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Hebbian(Rule):
    """Eq. 6: -d_i e_j^T. Descent on it lets E grow along e_j without bound."""

    def learn(self, link: Link, signals: LinkSignals) -> PyTree:
        return link.correlate(signals.E, -signals.e, signals.d)
