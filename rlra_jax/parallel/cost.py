"""What each parallel mode would hold and send, counted from shapes; nothing is computed.

Bytes sent are those of ring collectives, as `benchmarks/parallel.py` reads them off compiled programs.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from rlra_jax.edges import Wiring
from rlra_jax.loss import widen
from rlra_jax.model.net import Net
from rlra_jax.parallel.blocks import Block, key_of
from rlra_jax.parallel.dissect import INPUT, Part, check_independent, dissect, input_name
from rlra_jax.parallel.level import find_groups
from rlra_jax.parallel.packing import Packing
from rlra_jax.parallel.setting import signs
from rlra_jax.paths import flatten
from rlra_jax.recursion.options import Options
from rlra_jax.rules.mirror import mirror_of
from rlra_jax.validate import require, require_count


class Mode(NamedTuple):
    """A way to train a model on some devices; numbers are bytes per device, None where the mode is not possible."""

    name: str  # as in `config.parallel.mode`
    state: int | None  # parameters and synapses, once; optimizers such as Adam hold two more copies of each
    activations: int | None  # that wait for their region's update
    sent: float | None  # in a step
    why_not: str = ''


def modes(net: Net, wiring: Wiring, devices: int) -> list[Mode]:
    """All modes on so many devices, each along its own axis; streaming shares the batch.

    Args:
      net: what `regions` returned, of a linen module and an example of the whole batch.
      wiring: its error pathways.
      devices: how many.

    A model that is no linen module, or whose regions are not apart, has data mode alone, of unknown numbers.

    Raises:
      ValueError: devices is no whole number of at least 1.
    """
    require_count('devices', devices)
    try:
        require(isinstance(net.model, nn.Module), 'the model', 'a linen module', type(net.model).__name__)
        cost = _Cost(net, wiring, devices)
    except ValueError as error:
        others = ('stream', 'level', 'stage')[: 3 if devices > 1 else 1]
        return [Mode('data', None, None, None), *(_impossible(name, error) for name in others)]
    return cost.modes()


def recommend(found: Sequence[Mode], devices: int) -> str:
    """The mode to start with: on one device streaming where activations outweigh the state, else the plain step;
    on several what sends least, but data parallelism unless another mode halves what it sends.
    """
    by_name = {mode.name: mode for mode in found if not mode.why_not}
    plain = by_name['data']
    if devices == 1:
        return 'stream' if 'stream' in by_name and (plain.activations or 0) > (plain.state or 0) else 'data'
    rivals = [by_name[name] for name in ('level', 'stage') if name in by_name]
    best = min(rivals, key=lambda mode: mode.sent or 0.0, default=plain)
    return best.name if 2 * (best.sent or 0.0) < (plain.sent or 0.0) else 'data'


class _Cost:
    def __init__(self, net: Net, wiring: Wiring, devices: int):
        self.net, self.wiring, self.devices = net, wiring, devices
        self.variables = net.variable_shapes()
        self.x = x = net.example[input_name(net)]
        self.parts = dissect(net, self.variables, x, jax.random.key(0))
        self.features = {name: _bytes(part) // len(x) for name, part in self.parts.items()}  # of one example
        self.features[INPUT] = _size(x) // len(x)
        params = flatten(self.variables['params'])
        self.params = {path: _size(leaf) for path, leaf in params.items()}
        self.wide = {path: _size(jax.eval_shape(widen, leaf)) for path, leaf in params.items()}  # as synapses are
        self.edges: dict[str, int] = {}  # by the keys of `blocks.to_flat`
        for edge in wiring.edges:
            self.edges |= self._edge(edge)
        self.ring = (devices - 1) / devices  # what of an array a device sends in one round of a ring

    def _edge(self, edge: Any) -> dict[str, int]:
        source, target = self.parts[edge.source], self.parts[edge.target]
        if edge.kind.follows:
            return {key_of(edge.synapse, path): self.wide[path] for path in source.region.weights}
        return {edge.name: _size(edge.kind.like(source.region, target.region))}

    def modes(self) -> list[Mode]:
        state = sum(self.params.values()) + sum(self.edges.values())
        data = Mode('data', state, self._kept(self.parts) // self.devices, 2 * self.ring * state)
        found = [data, self._stream(data), self._level(data)]
        return [*found, self._stage()] if self.devices > 1 else found[:2]

    def _stream(self, data: Mode) -> Mode:
        try:
            runs = self._packing(None).runs
        except ValueError as error:
            return _impossible('stream', error)
        kept = [self._kept([*block.regions, block.entry]) for run in runs for block in run]
        most = max(map(sum, itertools.pairwise(kept)) if self.wiring.own else kept)  # a block waits for the one above
        return data._replace(name='stream', activations=most // self.devices)

    def _level(self, data: Mode) -> Mode:
        try:
            check_independent(self.parts, 'level')
            groups = [group for level in find_groups(self.parts, self.wiring, Options()) for group in level]
        except ValueError as error:
            return _impossible('level', error)
        share = len(self.x) / self.devices
        sources = {edge.source for edge in self.wiring.edges}
        along = {edge.target for edge in self.wiring.edges if edge.kind.follows}
        sent = 2 * self.ring * self._summed_paths()
        for group in groups:
            own = sum(self.params[path] for path in group.params[0]) + sum(self.edges[e.name] for e in group.edges[0])
            if len(group.regions) == 1:
                sent += 2 * self.ring * own
                continue
            stacked = math.ceil(len(group.regions) / self.devices) * self.devices
            name = group.regions[0]
            travels = [name, *group.parents[0], *(edge.source for edge in group.edges[0]), *({name} & along)]
            returns = [name] if sources & set(group.regions) else []
            sent += self.ring * stacked * share * self._example([*travels, *returns])
            sent += (self.devices - 1) * stacked / self.devices * own
        return data._replace(name='level', sent=sent)

    def _summed_paths(self) -> int:
        """Bytes of synapses along paths whose gradients are summed: some rules copy the parameters', or have none."""
        learnt = [e for e in self.wiring.edges if e.kind.follows and e.rule.sums]
        summed = {edge.source for edge in learnt}
        return sum(self.params[path] for source in summed for path in self.parts[source].region.weights)

    def _stage(self) -> Mode:
        try:
            check_independent(self.parts, 'stage')
            packing = self._packing(self.devices)
            stages = packing.stages
        except ValueError as error:
            return _impossible('stage', error)
        size, parts = len(self.x), math.gcd(len(self.x), self.devices)  # so many microbatches
        wire = max(self._example(packing.flow(stage)) for stage in stages)
        upwards = size // parts * wire * (parts + self.devices - 1)
        summed = 2 * self.ring * size * self._example([self.wiring.output])
        sent = upwards + summed
        mirror = mirror_of(self.wiring)
        if mirror and any(edge.rule.noisy and edge.source == self.wiring.output for edge in self.wiring.edges):
            sent += len(signs(self.wiring, mirror)) * upwards + summed  # by default in every step
        sent += size * max(self._example({edge.target for edge in stage.handed}) for stage in stages)
        held = max(self._state_of(stage) for stage in stages)
        return Mode('stage', held, max(self._kept([*stage.regions, stage.entry]) for stage in stages), sent)

    def _packing(self, stages: int | None) -> Packing:
        return Packing(self.net, self.wiring, options=Options(), stages=stages)

    def _state_of(self, stage: Block) -> int:
        return sum(self.params[path] for path in stage.params) + sum(self.edges[name] for name in stage.edges)

    def _kept(self, regions: Iterable[str]) -> int:
        return len(self.x) * self._example(regions)

    def _example(self, regions: Iterable[str]) -> int:
        return sum(self.features[name] for name in regions)


def _impossible(name: str, error: ValueError) -> Mode:
    return Mode(name, None, None, None, str(error).splitlines()[0].rstrip(':'))


def _bytes(part: Part) -> int:
    return math.prod(part.shape) * part.dtype.itemsize


def _size(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize
