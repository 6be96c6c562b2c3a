"""Descent on the targets' own part of the total discrepancy: an ablation."""

import dataclasses

import jax
import jax.numpy as jnp

from rlra_jax.edges import Link, LinkSignals, Rule
from rlra_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Dx(Rule):
    """The gradient of the targets' own part of Eq. 2, ||z_i - y_i||^2, averaged over the batch.

    By secondary sources the appendix's "rLRA, dx". Descent shrinks the targets, E tends to 0, and where phi has no
    derivative E stands still.
    """

    def learn(self, link: Link, signals: LinkSignals) -> PyTree:
        def discrepancy(E: PyTree) -> Array:
            sent = link.send(E, signals.e)
            missed = [((signals.z[name] - signals.y[name](d)) ** 2).sum() for name, d in sent.items()]
            return sum(missed, start=jnp.zeros(())) / len(signals.e)

        return jax.grad(discrepancy)(signals.E)
