"""The recursion: errors spread from the output, one level of the error-pathway pytree after the other."""

import functools
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax import batch_norm, targets
from rlra_jax.synapses import transmit
from rlra_jax.types import Array, Edge, Phi, PyTree, Wiring


class Signals(NamedTuple):
    """All that the recursion computes; dictionaries are keyed by region or, for d, by edge name."""

    z: dict[str, Array]  # [B, ...] activity; at the output softmax(h)
    y: dict[str, Array]  # [B, ...] target, Eq. 3; at the output the one-hot label
    e: dict[str, Array]  # [B, ...] error neurons, Eq. 4
    sent: tuple[dict[str, Array], ...]  # level by level: the error [B, ...] that each edge takes from its source
    d: tuple[dict[str, Array], ...]  # level by level: the displacement [B, ...] that each edge contributes
    total: dict[str, Array]  # hidden region -> their sum [B, ...]
    reach: dict[str, Callable[[Array], Array]]  # hidden region -> Eq. 3 as a function of that sum


def propagate(
    wiring: Wiring,
    synapses: PyTree,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    label: Array,
    *,
    beta: float,
    alpha: Mapping[str, float],
    normalise: bool = False,
    surrogate: Phi | None = None,
    known: Mapping[str, Array] | None = None,
) -> Signals:
    """Runs the recursion. Regions of one level do not depend on each other.

    Args:
      wiring: the error pathways.
      synapses: the error-pathway pytree: level by level, {edge name: E}.
      h: region -> pre-activation `[B, ...]`, at least float32: errors shrink like beta^depth and would cancel.
      phi: hidden region -> activation function.
      label: one-hot `[B, classes]`.
      beta: the modulation factor of Eq. 3.
      alpha: hidden region -> error mixture.
      normalise: divide each hidden error by beta, so that it does not fade along a chain.
      surrogate: what targets use in place of each phi; see `targets.target`.
      known: edge name -> its displacement, where the errors have been sent before.

    Warns:
      UserWarning: errors fade below what h's dtype resolves, so that the regions of the last levels would not learn.
    """
    _warn_of_fading(len(wiring.levels), 1.0 if normalise else beta, h[wiring.output].dtype)
    z = {wiring.output: jax.nn.softmax(h[wiring.output])}
    y = {wiring.output: label}
    e = {wiring.output: z[wiring.output] - label}
    scale = beta if normalise else 1.0
    sent: list[dict[str, Array]] = []
    displacements: list[dict[str, Array]] = []
    total: dict[str, Array] = {}
    reach: dict[str, Callable[[Array], Array]] = {
        name: functools.partial(_reach, phi[name], h[name], beta, surrogate) for name in phi
    }
    for edges, level in zip(wiring.levels, synapses, strict=True):
        reached = dict.fromkeys(edge.target for edge in edges)
        z |= {name: phi[name](h[name]) for name in reached}
        leaving = {edge.name: batch_norm.through(edge, level[edge.name], e[edge.source], h, phi) for edge in edges}
        d = _send(edges, level, h, leaving) if known is None else {edge.name: known[edge.name] for edge in edges}
        for name in reached:
            total[name] = functools.reduce(operator.add, (d[edge.name] for edge in edges if edge.target == name))
            y[name] = reach[name](total[name])
            e[name] = targets.error_neurons(z[name], y[name], alpha[name], scale)
        sent.append(leaving)
        displacements.append(d)
    return Signals(z, y, e, tuple(sent), tuple(displacements), total, reach)


def _warn_of_fading(levels: int, shrink: float, dtype: jnp.dtype) -> None:
    finest = float(jnp.finfo(dtype).eps)
    if shrink**levels < finest:
        warnings.warn(
            f'{levels} recursion levels that scale errors by beta = {shrink:g} leave {shrink**levels:.0e} of them; '
            f'{dtype} resolves {finest:.0e} of an activity, so regions of the last levels may get no update. '
            'Set normalise=True, or take a wiring of fewer levels.',
            stacklevel=2,
        )


def _reach(phi: Phi, h: Array, beta: float, surrogate: Phi | None, d: Array) -> Array:
    return targets.target(phi, h, d, beta, surrogate)


def _send(edges: tuple[Edge, ...], level: PyTree, h: Mapping[str, Array], sent: dict[str, Array]) -> dict[str, Array]:
    """One tree map over a level: every edge transmits its error."""
    pathway = {edge.name: edge for edge in edges}
    return jax.tree.map(lambda edge, E, e: transmit(edge.kind, E, e, h[edge.target].shape), pathway, level, sent)
