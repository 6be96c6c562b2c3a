"""The recursion: errors spread from the output, one level of the error-pathway pytree after the other.

Where edges carry own errors it runs twice: without them, which gives the own errors, and with what they then carry.
"""

import functools
import operator
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from rlra_jax.edges import Carries, Edge, Link, Wiring
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
    own: dict[str, Array]  # [B, ...] region -> its own error; where no edge carries one, e


def propagate(
    wiring: Wiring,
    synapses: PyTree,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    e_outputs: Mapping[str, Array],
    options: Options,
    *,
    known: Mapping[str, Array] | None = None,
    beside: Mapping[str, Array] | None = None,
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
      beside: region -> a displacement `[B, ...]` that it hears beside those of the edges, but not in its own error.
      paths: {source: the way back over its edges that follow the forward path}.
      loops: those along which errors travel; the regions of each are of one level.

    Edges may end in regions without a phi: these hear them elsewhere.

    Warns:
      UserWarning: errors fade below what h's dtype resolves, so that the regions of the last levels would not learn.
    """
    along = sum(h[loop.regions[0]].shape[1] - 1 for loop in loops)  # an error passes all iterations
    _warn_of_fading(len(wiring.levels) + along, 1.0 if options.normalise else options.beta, h[wiring.outputs[0]].dtype)
    recursion = Recursion(wiring, synapses, h, phi, options, paths or {}, loops)
    own, sent = ({}, dict(known)) if known is not None else recursion.own(e_outputs)
    e, d, reactions = recursion.run(wiring.levels, e_outputs, sent, beside or {}, wiring.unheard)
    z = {name: h[name] for name in wiring.outputs} | {name: r.z for name, r in reactions.items()}
    y = {name: h[name] - e_outputs[name] for name in wiring.outputs} | {name: r.y for name, r in reactions.items()}
    for name in (name for name in phi if name not in e):  # no error comes to what the model does not let learn
        z[name] = y[name] = phi[name](h[name])
        e[name] = jnp.zeros_like(z[name])
    return Signals(z, y, e, d, reactions, {**e, **own})


class Recursion:
    """How errors spread over a wiring's edges.

    Args: as `propagate`.
    """

    def __init__(
        self,
        wiring: Wiring,
        synapses: PyTree,
        h: Mapping[str, Array],
        phi: Mapping[str, Phi],
        options: Options,
        paths: Mapping[str, Along],
        loops: Sequence[Loop] = (),
    ):
        self._wiring, self._h, self._phi, self._options, self._loops = wiring, h, phi, options, loops
        self._alpha = per_region('alpha', options.alpha, phi)
        self._E = {name: E for level in synapses for name, E in level.items()}
        self._links = {name: link for level in connect(wiring, h, paths) for name, link in level.items()}

    def own(self, e_outputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """({region: its own error}, {edge: displacement} of what is heard of these or is not heard beside them)."""
        e, d, _ = self.run(self._wiring.own, e_outputs, {}, {})
        carrying = [edge for edge in self._wiring.edges if edge.carries is Carries.OWN]
        for edge in carrying:
            d = self._sent(d, edge, e)
        return e, {edge.name: d[edge.name] for edge in (*carrying, *self._wiring.unheard)}

    def run(
        self,
        levels: Sequence[Sequence[Edge]],
        e_outputs: Mapping[str, Array],
        before: Mapping[str, Array],
        beside: Mapping[str, Array],
        unheard: Collection[Edge] = (),
    ) -> tuple[dict[str, Array], dict[str, Array], dict[str, Reaction]]:
        """({region: error}, {edge: displacement}, {region: reaction}).

        Args:
          levels: edges, level by level.
          e_outputs: as `propagate`.
          before: what has been sent already.
          beside: as `propagate`.
          unheard: edges that no target hears in its own error.
        """
        e = {name: e_outputs[name] for name in self._wiring.outputs}
        sent, reactions = dict(before), dict[str, Reaction]()
        for level in levels:
            targets = dict.fromkeys(edge.target for edge in level)
            edges = [edge for edge in level if edge not in unheard]
            loops = [loop for loop in self._loops if loop.regions[0] in targets]
            along = [edge for edge in edges if any({edge.source, edge.target} <= {*loop.regions} for loop in loops)]
            for edge in (edge for edge in edges if edge not in along):
                sent = self._sent(sent, edge, e)
            within = {name: error for loop in loops for name, error in self._within(loop, edges, along, sent).items()}
            for edge in along:
                sent = self._sent(sent, edge, within)
            for name in (name for name in targets if name in self._phi):
                carried = [sent[edge.name] for edge in edges if edge.target == name]
                carried += [beside[name]] if name in beside else []
                if carried:
                    reactions[name] = react(self._phi[name], self._h[name], carried, self._alpha[name], self._options)
                    e[name] = reactions[name].e
        return e, sent, reactions

    def _within(
        self, loop: Loop, edges: Sequence[Edge], along: Sequence[Edge], sent: Mapping[str, Array]
    ) -> dict[str, Array]:
        """{region: error} of a loop's regions, once all but the edges along it have sent."""
        arrived: dict[str, list[Array]] = {name: [] for name in loop.regions}
        for edge in edges:
            if edge.target in arrived and edge.name in sent:
                arrived[edge.target].append(sent[edge.name])
        outer = {name: functools.reduce(operator.add, own) for name, own in arrived.items() if own}
        synapses = {edge.synapse for edge in along if edge.source in arrived}
        E = {path: value for name in synapses for path, value in self._E[name].items()}
        inner = loop.displacements(E, outer, self._alpha, self._options)
        given = {name: (*arrived[name], inner[name]) for name in loop.regions}
        return {
            name: react(self._phi[name], self._h[name], d, self._alpha[name], self._options).e
            for name, d in given.items()
        }

    def _sent(self, before: dict[str, Array], edge: Edge, e: Mapping[str, Array]) -> dict[str, Array]:
        """What has been sent before, and what an edge's synapse sends if that is not among it."""
        if edge.name in before:
            return before
        return self._links[edge.synapse].send(self._E[edge.synapse], e[edge.source]) | before


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


def _warn_of_fading(levels: int, shrink: float, dtype: jnp.dtype) -> None:
    finest = float(jnp.finfo(dtype).eps)
    if min(shrink, 1.0) ** levels < finest:
        warnings.warn(
            f'{levels} recursion levels that scale errors by beta = {shrink:g} leave {shrink**levels:.0e} of them; '
            f'{dtype} resolves {finest:.0e} of an activity, so regions of the last levels may get no update. '
            'Set normalise=True, or take a wiring of fewer levels.',
            stacklevel=2,
        )
