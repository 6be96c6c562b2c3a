"""The recursion: errors spread from the output, one level of the error-pathway pytree after the other."""

import functools
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.edges import Edge, Link, Wiring
from rlra_jax.recursion.loop import Loop
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.region import Reaction, react
from rlra_jax.synapses.path import Along
from rlra_jax.synapses.straight import Straight
from rlra_jax.types import Array, Phi, PyTree
from rlra_jax.validate import per_region


class Signals(NamedTuple):
    """All that the recursion computes; dictionaries are keyed by region or, for d, by edge name."""

    z: dict[str, Array]  # [B, ...] activity; at the output h
    y: dict[str, Array]  # [B, ...] target, Eq. 3; at the output h - e
    e: dict[str, Array]  # [B, ...] error neurons, Eq. 4; at the output the loss's derivative
    d: dict[str, Array]  # the displacement [B, ...] that each edge contributes
    reactions: dict[str, Reaction]  # of the hidden regions that hear an error


def propagate(
    wiring: Wiring,
    synapses: PyTree,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    e_outputs: Mapping[str, Array],
    options: Options,
    *,
    known: Mapping[str, Array] | None = None,
    paths: Mapping[str, Along] | None = None,
    loops: Sequence[Loop] = (),
) -> Signals:
    """Runs the recursion. Regions of one level do not depend on each other.

    Args:
      wiring: the error pathways.
      synapses: the error-pathway pytree: level by level, {synapse: E}.
      h: region -> pre-activation `[B, ...]`, at least float32: errors shrink like beta^depth and would cancel.
      phi: hidden region -> activation function.
      e_outputs: output -> e_L `[B, ...]`, the derivative of each example's loss in h_L.
      options: of which the recursion heeds beta, alpha, normalise and surrogate.
      known: edge name -> its displacement, where the errors have been sent before.
      paths: {source: the way back over its edges that follow the forward path}.
      loops: those along which errors travel; the regions of each are of one level.

    Warns:
      UserWarning: errors fade below what h's dtype resolves, so that the regions of the last levels would not learn.
    """
    _warn_of_fading(len(wiring.levels), 1.0 if options.normalise else options.beta, h[wiring.outputs[0]].dtype)
    alpha = per_region('alpha', options.alpha, phi)
    z = {name: h[name] for name in wiring.outputs}
    y = {name: h[name] - e_outputs[name] for name in wiring.outputs}
    e = {name: e_outputs[name] for name in wiring.outputs}
    d = dict(known or {})
    reactions: dict[str, Reaction] = {}
    links = connect(wiring, h, paths or {})
    for edges, level, own in zip(wiring.levels, synapses, links, strict=True):
        if known is None:
            d |= _send({name: link for name, link in own.items() if link.edges[0].source in e}, level, e)
        for loop in (loop for loop in loops if loop.regions[0] in {edge.target for edge in edges}):
            along = {name: link for name, link in own.items() if link.edges[0].source in loop.regions}
            d |= _send(along, level, _answers(loop, along, level, edges, d, h, phi, alpha, options))
        for name in dict.fromkeys(edge.target for edge in edges):
            carried = [d[edge.name] for edge in edges if edge.target == name]
            reactions[name] = react(phi[name], h[name], carried, alpha[name], options)
            z[name], y[name], e[name] = reactions[name][:3]
    for name in phi.keys() - e.keys():  # no error comes to what the model does not let learn
        z[name] = y[name] = phi[name](h[name])
        e[name] = jnp.zeros_like(z[name])
    return Signals(z, y, e, d, reactions)


def _answers(
    loop: Loop,
    links: Mapping[str, Link],
    level: PyTree,
    edges: Sequence[Edge],
    d: Mapping[str, Array],
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    alpha: Mapping[str, float],
    options: Options,
) -> dict[str, Array]:
    """{region: error neurons} of a loop's regions; links: along it; d: what has been sent to the level so far."""
    arrived: dict[str, list[Array]] = {name: [] for name in loop.regions}
    for edge in edges:
        if edge.target in arrived and edge.name in d:
            arrived[edge.target].append(d[edge.name])
    outer = {name: functools.reduce(operator.add, own) for name, own in arrived.items() if own}
    E = {path: value for name in links for path, value in level[name].items()}
    inner = loop.displacements(E, outer, alpha, options)
    return {
        name: react(phi[name], h[name], [*arrived[name], inner[name]], alpha[name], options).e for name in loop.regions
    }


def connect(wiring: Wiring, h: Mapping[str, Array], paths: Mapping[str, Along]) -> tuple[dict[str, Link], ...]:
    """Level by level, {synapse: what it does}: a pytree like the synapses'.

    Args:
      wiring: the error pathways.
      h: region -> pre-activation `[B, ...]`; only shapes matter.
      paths: {source: the way back over its edges that follow the forward path}.
    """

    def link(edges: Sequence[Edge]) -> Link:
        edge = edges[0]
        if edge.kind.follows:
            return paths[edge.source]
        return Straight(edge, h[edge.source].shape, h[edge.target].shape)

    return tuple({name: link(edges) for name, edges in level.items()} for level in wiring.synapses)


def _send(links: Mapping[str, Link], level: PyTree, e: Mapping[str, Array]) -> dict[str, Array]:
    """One tree map over a level: every synapse transmits its source's error. {edge name: displacement}."""
    own = {name: level[name] for name in links}
    sent = jax.tree.map(lambda link, E: link.send(E, e[link.edges[0].source]), dict(links), own)
    return {name: d for own in sent.values() for name, d in own.items()}


def _warn_of_fading(levels: int, shrink: float, dtype: jnp.dtype) -> None:
    finest = float(jnp.finfo(dtype).eps)
    if shrink**levels < finest:
        warnings.warn(
            f'{levels} recursion levels that scale errors by beta = {shrink:g} leave {shrink**levels:.0e} of them; '
            f'{dtype} resolves {finest:.0e} of an activity, so regions of the last levels may get no update. '
            'Set normalise=True, or take a wiring of fewer levels.',
            stacklevel=2,
        )
