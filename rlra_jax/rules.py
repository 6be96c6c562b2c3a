"""How error synapses learn: Eq. 6 of the paper and its alternatives, one function each, in the table `RULES`.

Equation 5, the rule of the forward synapses, needs no table: for any operation it is the operation's own
vector-Jacobian product at the cotangent e (see `capture.py`), and for a dense one z_k^T e_i.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.synapses import correlate, transmit
from rlra_jax.types import Array, Edge, PyTree


class EdgeSignals(NamedTuple):
    """What is known at the two ends of an edge j -> i once the recursion has passed it."""

    E: PyTree  # E_{j->i}: an array, or () for a kind without parameters
    e: Array  # [B, ...j] error neurons of the source, as they leave it
    d: Array  # [B, ...i] the edge's own displacement
    z: Array  # [B, ...i] activity of the target
    y: Callable[[Array], Array]  # d -> [B, ...i]: the target's target, were this the edge's displacement


def hebbian(edge: Edge, signals: EdgeSignals) -> PyTree:
    """Eq. 6 as printed, -d_i e_j^T. Descent on it lets E grow along e_j without bound; see WORKSPACE.md."""
    return correlate(edge.kind, signals.E, -signals.e, signals.d)


def kp(edge: Edge, signals: EdgeSignals) -> PyTree:
    """Kolen-Pollack: e_j x z_i, the transpose of the forward update. The rule of LRA-E's released code."""
    return correlate(edge.kind, signals.E, signals.e, signals.z)


def dx(edge: Edge, signals: EdgeSignals) -> PyTree:
    """The gradient of region i's own part of Eq. 2, ||z_i - y_i||^2, averaged over the batch.

    An ablation, by secondary sources the appendix's "rLRA, dx": descent shrinks the targets, E tends to 0, and where
    phi has no derivative E stands still.
    """

    def discrepancy(E: PyTree) -> Array:
        y = signals.y(transmit(edge.kind, E, signals.e, signals.z.shape))
        return ((signals.z - y) ** 2).sum() / len(y)

    return jax.grad(discrepancy)(signals.E)


def fixed(edge: Edge, signals: EdgeSignals) -> PyTree:
    """E stays as it was drawn."""
    return jax.tree.map(jnp.zeros_like, signals.E)


RULES: dict[str, Callable[[Edge, EdgeSignals], PyTree]] = {
    'hebbian': hebbian,
    'kp': kp,
    'dx': dx,
    'fixed': fixed,
    'mirror': fixed,  # learns in noisy passes of its own (`mirror.py`) and rests in between
}
