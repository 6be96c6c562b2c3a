"""Synapses that do not learn."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from rlra_jax.edges import Link, LinkSignals, Rule
from rlra_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Fixed(Rule):
    """E stays as it was drawn."""

    sums: ClassVar[bool] = False

    def learn(self, link: Link, signals: LinkSignals) -> PyTree:
        return jax.tree.map(jnp.zeros_like, signals.E)
