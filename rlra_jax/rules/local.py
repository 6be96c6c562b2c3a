"""How error synapses learn: Eq. 6 of the paper and its alternatives, one function each, in the table `RULES`.

Equation 5, the rule of the forward synapses, needs no table: for any operation it is the operation's own
vector-Jacobian product at the cotangent e (see `capture.py`), and for a dense one z_k^T e_i.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rlra_jax.types import Array, Edge, PyTree


class Link(Protocol):
    """A synapse at work: `synapses.Straight` or `path.Path`, whose methods say more."""

    edges: tuple[Edge, ...]

    def send(self, E: PyTree, e: Array) -> dict[str, Array]: ...

    def see(self, E: PyTree, signals: Mapping[str, Array]) -> Array: ...

    def correlate(self, E: PyTree, source: Array, signals: Mapping[str, Array]) -> PyTree: ...

    def curvature(self, E: PyTree, step: PyTree, xi: Mapping[str, Array], scale: Array | float) -> Any: ...

    def inputs(self, E: PyTree) -> float: ...


class LinkSignals(NamedTuple):
    """What is known at both ends of a synapse once the recursion has passed it; of the targets by edge name."""

    E: PyTree
    e: Array  # [B, ...j] error neurons of the source
    d: Mapping[str, Array]  # [B, ...i] the edge's own displacement
    z: Mapping[str, Array]  # [B, ...i] activity of the target
    y: Mapping[str, Callable[[Array], Array]]  # d -> [B, ...i]: the target's target, were this the edge's displacement
    own: Mapping[str, Array]  # {path: update} of the source's own parameters


def hebbian(link: Link, signals: LinkSignals) -> PyTree:
    """Eq. 6 as printed, -d_i e_j^T. Descent on it lets E grow along e_j without bound; see WORKSPACE.md."""
    return link.correlate(signals.E, -signals.e, signals.d)


def kp(link: Link, signals: LinkSignals) -> PyTree:
    """Kolen-Pollack: the transpose of the forward update, e_j x z_i. The rule of LRA-E's released code.

    On a path the very update of the parameters that E stands for: E - W decays where both sides decay and share an
    optimizer.
    """
    if link.edges[0].kind == 'path':
        return {name: signals.own[name].astype(value.dtype) for name, value in signals.E.items()}
    return link.correlate(signals.E, signals.e, signals.z)


def dx(link: Link, signals: LinkSignals) -> PyTree:
    """The gradient of the targets' own part of Eq. 2, ||z_i - y_i||^2, averaged over the batch.

    An ablation, by secondary sources the appendix's "rLRA, dx": descent shrinks the targets, E tends to 0, and where
    phi has no derivative E stands still.
    """

    def discrepancy(E: PyTree) -> Array:
        sent = link.send(E, signals.e)
        missed = [((signals.z[name] - signals.y[name](d)) ** 2).sum() for name, d in sent.items()]
        return sum(missed, start=jnp.zeros(())) / len(signals.e)

    return jax.grad(discrepancy)(signals.E)


def fixed(link: Link, signals: LinkSignals) -> PyTree:
    """E stays as it was drawn."""
    return jax.tree.map(jnp.zeros_like, signals.E)


RULES: dict[str, Callable[[Link, LinkSignals], PyTree]] = {
    'hebbian': hebbian,
    'kp': kp,
    'dx': dx,
    'fixed': fixed,
    'mirror': fixed,  # learns in noisy passes of its own (`mirror.py`) and rests in between
}
