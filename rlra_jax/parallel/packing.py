"""Packed training state: the arrays of equal blocks stacked, so that one loop can serve them all."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rlra_jax.edges import Wiring
from rlra_jax.model.capture import OUTPUT
from rlra_jax.model.net import Net
from rlra_jax.parallel.blocks import (
    Block,
    Run,
    find_runs,
    find_stages,
    from_flat,
    pack,
    to_flat,
    unpack,
)
from rlra_jax.parallel.dissect import INPUT, Flat, Part, dissect, input_name
from rlra_jax.parallel.forward_pass import Held
from rlra_jax.parallel.optimizer_state import pack_state, unpack_state
from rlra_jax.parallel.shares import Shares
from rlra_jax.paths import flatten, refill
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.start import draw_synapses
from rlra_jax.train_step import TrainState, downhill
from rlra_jax.types import Array, Aux, Batch, State, Variables, Weights
from rlra_jax.validate import require
from rlra_jax.wiring.levels import check_wiring


class Own(NamedTuple):
    """All that training changes of a block, or of a run of blocks with every leaf stacked, `[blocks, ...]`."""

    held: Held
    optimizer: Any  # optax state of its weights


class PackedState(NamedTuple):
    """A TrainState whose arrays are grouped by run of equal blocks."""

    runs: tuple[Own, ...]
    memory: dict[str, Array]  # as in State


class PackedStep(NamedTuple):
    """Like `TrainStep`, for a packed state; with functions that translate it."""

    init: Callable[..., PackedState]  # (key, variables=None)
    update: Callable[[PackedState, Batch, Array], tuple[PackedState, Aux]]  # (state, batch, key)
    pack: Callable[[TrainState], PackedState]  # from the state of `make_train_step` with the same optimizer
    unpack: Callable[[PackedState], TrainState]  # back to it, for evaluation and checkpoints


class Packing:
    """Translates between a model's own trees and packed ones.

    Args:
      net: what `regions` returned, of a linen module.
      wiring: its error pathways.
      options: hyper-parameters; blocks of different kappa or alpha are not equal.
      stages: join blocks to so many stages; a run is then all equal stages, neighbours or not.

    Raises:
      ValueError: the model is but one block under this wiring (see `find_runs`), or shares parameters among regions;
        or the wiring is not one of this model.
    """

    weights: Weights  # shapes of what the plain step starts with
    state: State  # the same
    parts: Mapping[str, Part]  # of the model, for batches like the example

    def __init__(
        self,
        net: Net,
        wiring: Wiring,
        *,
        options: Options,
        stages: int | None = None,
    ):
        require(isinstance(net.model, nn.Module), 'the model', 'a linen module', type(net.model).__name__)
        require(
            wiring.output == OUTPUT,
            'what a model returns',
            'one array, not a mapping, in stream and stage mode',
            wiring.output,
        )
        self.wiring, self.input = wiring, input_name(net)
        self.variables = net.variable_shapes()
        self._dissect = functools.partial(dissect, net, self.variables)
        x, key = net.example[self.input], jax.random.key(0)
        self._like = _kind(x), _kind(key)
        self.parts = parts = self._dissect(x, key)
        check_wiring(wiring, net.regions)
        one = [edge.name for edge in wiring.edges if edge.share is not None]
        require(not one, 'a wiring in stream or stage mode', 'one of edges with an E of their own (no share)', one)
        regions = [part.region for part in parts.values()]
        synapses, memory = jax.eval_shape(lambda v: draw_synapses(key, wiring, regions, v, 1.0), self.variables)
        collections = {name: tree for name, tree in self.variables.items() if name != 'params'}
        self.weights, self.state = (
            {'params': self.variables['params'], 'synapses': synapses},
            State(collections, memory),
        )
        self.runs: tuple[Run, ...] = find_runs(parts, wiring, options)
        _check_stats(parts, [block for run in self.runs for block in run])
        self._shares = Shares(parts)
        if stages is not None:
            weights = flatten(self.variables['params'])
            self.stages = find_stages(self.runs, parts, wiring, options, weights, stages)
            kinds: dict[Any, Run] = {}
            for stage in self.stages:
                kind = stage.signature, stage.entry == INPUT  # the image lies elsewhere than what stages hand on
                kinds[kind] = (*kinds.get(kind, ()), stage)
            self.runs = tuple(kinds.values())
            self.places = [(k, run.index(s)) for s in self.stages for k, run in enumerate(self.runs) if s in run]

    def flow(self, block: Block) -> list[str]:
        """The names of what leaves a block: its last region, and the output where that is a sum of shares."""
        return list(dict.fromkeys([block.regions[-1], *([self.wiring.output] if self._shares.apart else [])]))

    def parts_for(self, x: Array, key: Array) -> Mapping[str, Part]:
        """The model taken apart, for a batch like x and a key like this: as it was here, or else anew."""
        return self.parts if (_kind(x), _kind(key)) == self._like else self._dissect(x, key)

    def pack_held(self, weights: Weights, collections: Variables) -> tuple[Held, ...]:
        """Weights and the model's other collections -> packed."""
        fields = (
            (flatten(weights['params']), 'params'),
            (flatten(collections), 'stats'),
            (to_flat(weights['synapses'], 'edges'), 'edges'),
        )
        return tuple(Held(*three) for three in zip(*(pack(self.runs, *field) for field in fields), strict=True))

    def weights_of(self, params: Any, synapses: Any) -> Weights:
        """Packed parameters and synapses, or what has their names, -> the tree of the weights."""
        return {
            'params': refill(self.weights['params'], unpack(self.runs, params, 'params')),
            'synapses': from_flat(self.weights['synapses'], unpack(self.runs, synapses, 'edges'), 'edges'),
        }

    def collections_of(self, held: Sequence[Held]) -> Variables:
        """Packed -> the model's collections other than params."""
        return refill(self.state.collections, unpack(self.runs, [h.stats for h in held], 'stats'))

    def pack(self, state: TrainState, optimizer: optax.GradientTransformation) -> PackedState:
        """A plain state -> a packed one."""
        held = self.pack_held(state.weights, state.state.collections)
        moments = pack_state(self.runs, state.optimizer, state.weights, optimizer)
        return PackedState(tuple(map(Own, held, moments)), copied(state.state.memory))

    def unpack(self, state: PackedState, optimizer: optax.GradientTransformation) -> TrainState:
        """A packed state -> a plain one."""
        held, moments = zip(*state.runs, strict=True)
        weights = self.weights_of([h.params for h in held], [h.synapses for h in held])
        like = jax.eval_shape(optimizer.init, weights)
        after = State(self.collections_of(held), copied(state.memory))
        return TrainState(weights, after, unpack_state(self.runs, moments, like, weights))


def copied(memory: Mapping[str, Array]) -> dict[str, Array]:
    """What a learner remembers, in arrays of its own: either state may be donated."""
    return {name: jnp.copy(value) for name, value in memory.items()}


def advance(optimizer: optax.GradientTransformation, own: Own, grads: Weights, stats: Flat) -> Own:
    """One block after a step of the optimizer."""
    held = own.held
    weights = {'params': held.params, 'synapses': held.synapses}
    updates, moments = optimizer.update(downhill(grads), own.optimizer, weights)
    weights = optax.apply_updates(weights, updates)
    return Own(Held(weights['params'], {**held.stats, **stats}, weights['synapses']), moments)


def _check_stats(parts: Mapping[str, Part], blocks: Sequence[Block]) -> None:
    """Raises ValueError if a block reads statistics, or constants of the model, that another holds."""
    for block in blocks:
        held = {path for name in block.regions for path in parts[name].stats}
        read = {path for name in block.regions for path in parts[name].program.named('stats')}
        if read - held:
            raise ValueError(
                f'{sorted(read - held)} are read by several blocks, and one alone would hold them; train this model '
                'data parallel or in level mode, or give each block its own'
            )


def _kind(leaf: Any) -> tuple[Any, ...]:
    """What a program that was traced with one array asks of another."""
    return leaf.shape, leaf.dtype
