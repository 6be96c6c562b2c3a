"""Packed training state: the arrays of equal blocks stacked, so that one loop can serve them all."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax

from rlra_jax.edges import Wiring
from rlra_jax.model.programs import split
from rlra_jax.parallel.blocks import (
    Run,
    find_runs,
    find_stages,
    from_flat,
    pack,
    pack_state,
    to_flat,
    unpack,
    unpack_state,
)
from rlra_jax.parallel.check_blockwise import check_blockwise
from rlra_jax.parallel.dissect import INPUT, Flat, Part, dissect
from rlra_jax.parallel.local import Held
from rlra_jax.paths import flatten, refill
from rlra_jax.recursion.feedback import first_feedback
from rlra_jax.recursion.options import Options
from rlra_jax.train_step import TrainState
from rlra_jax.types import Array, Aux, Batch, Feedback, LocalGrads, PyTree, Variables
from rlra_jax.validate import require_optimizer
from rlra_jax.wiring.levels import check_wiring


class Own(NamedTuple):
    """All that training changes of a block, or of a run of blocks with every leaf stacked, `[blocks, ...]`."""

    held: Held
    optimizer: Any  # optax state of its parameters
    synapse_optimizer: Any  # optax state of its synapses


class PackedState(NamedTuple):
    """A TrainState whose arrays are grouped by run of equal blocks."""

    runs: tuple[Own, ...]
    memory: dict[str, Array]  # as in Feedback


class PackedStep(NamedTuple):
    """Like `TrainStep`, for a packed state; with functions that translate it."""

    init: Callable[[Array, Variables, Batch], PackedState]  # (key, variables, batch)
    update: Callable[[PackedState, Batch, Array], tuple[PackedState, Aux]]  # (state, batch, key); aux.variables is {}
    pack: Callable[[TrainState], PackedState]  # from the state of `make_train_step` with the same optimizers
    unpack: Callable[[PackedState], TrainState]  # back to it, for evaluation and checkpoints


class Packing:
    """Translates between a model's own trees and packed ones.

    Args:
      model: a linen module whose activations are Sites.
      wiring: its error pathways.
      variables: what `model.init` returned, or its shapes.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      options: hyper-parameters; blocks of different kappa or alpha are not equal.
      train_kwargs: further keyword arguments of the model's call.
      stages: join blocks to so many stages; a run is then all equal stages, neighbours or not.

    Raises:
      ValueError: the model is but one block under this wiring (see `find_runs`), or shares parameters among regions;
        or the wiring is not one of this model.
    """

    feedback: Feedback  # shapes of what the plain step starts with
    parts: Mapping[str, Part]  # of the model, for batches like x

    def __init__(
        self,
        model: nn.Module,
        wiring: Wiring,
        variables: Variables,
        x: Array,
        *,
        options: Options,
        train_kwargs: Mapping[str, Any] | None = None,
        stages: int | None = None,
    ):
        self.wiring = wiring
        self.variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(variables))
        self._dissect = functools.partial(dissect, model, self.variables, train_kwargs=train_kwargs)
        self._like = _kind(x), _kind(jax.random.key(0))
        self.parts = parts = self._dissect(x, jax.random.key(0))
        regions = [part.region for part in parts.values()]
        check_wiring(wiring, regions)
        self.feedback = jax.eval_shape(
            lambda variables: first_feedback(jax.random.key(0), wiring, regions, variables, 1.0), self.variables
        )
        self.runs: tuple[Run, ...] = find_runs(parts, wiring, options)
        if stages is not None:
            weights = flatten(self.variables['params'])
            self.stages = find_stages(self.runs, parts, wiring, options, weights, stages)
            kinds: dict[Any, Run] = {}
            for stage in self.stages:
                kind = stage.signature, stage.entry == INPUT  # the image lies elsewhere than what stages hand on
                kinds[kind] = (*kinds.get(kind, ()), stage)
            self.runs = tuple(kinds.values())
            self.places = [(k, run.index(s)) for s in self.stages for k, run in enumerate(self.runs) if s in run]

    def parts_for(self, x: Array, key: Array) -> Mapping[str, Part]:
        """The model taken apart, for a batch like x and a key like this: as it was here, or else anew."""
        return self.parts if (_kind(x), _kind(key)) == self._like else self._dissect(x, key)

    def pack_held(self, variables: Variables, synapses: PyTree) -> tuple[Held, ...]:
        """The model's own variables and error-pathway pytree -> packed."""
        params, stats = split(variables)
        fields = ((params, 'params'), (stats, 'stats'), (to_flat(synapses, 'edges'), 'edges'))
        return tuple(Held(*three) for three in zip(*(pack(self.runs, *field) for field in fields), strict=True))

    def variables_of(self, held: tuple[Held, ...]) -> Variables:
        """Packed -> the model's own variables."""
        rest = {name: value for name, value in self.variables.items() if name != 'params'}
        stats = refill(rest, unpack(self.runs, [h.stats for h in held], 'stats'))
        return {**stats, 'params': self.params_of([h.params for h in held])}

    def params_of(self, packed: Any) -> PyTree:
        """Packed parameters, or what has their names, -> the tree of variables['params']."""
        return refill(self.variables['params'], unpack(self.runs, packed, 'params'))

    def synapses_of(self, packed: Any) -> PyTree:
        """Packed synapses, or what has their names, -> the error-pathway pytree."""
        return from_flat(self.feedback.synapses, unpack(self.runs, packed, 'edges'), 'edges')

    def pack(self, state: TrainState) -> PackedState:
        """A plain state -> a packed one."""
        synapses = state.feedback.synapses
        held = self.pack_held(state.variables, synapses)
        params = pack_state(self.runs, state.optimizer, state.variables['params'], 'params')
        edges = pack_state(self.runs, state.synapse_optimizer, synapses, 'edges')
        return PackedState(tuple(map(Own, held, params, edges)), dict(state.feedback.memory))

    def unpack(
        self,
        state: PackedState,
        optimizer: optax.GradientTransformation,
        synapse_optimizer: optax.GradientTransformation,
    ) -> TrainState:
        """A packed state -> a plain one."""
        held, of_params, of_edges = zip(*state.runs, strict=True)
        variables = self.variables_of(held)
        synapses = self.synapses_of([h.synapses for h in held])
        params = variables['params']
        like, like_edges = jax.eval_shape(optimizer.init, params), jax.eval_shape(synapse_optimizer.init, synapses)
        return TrainState(
            variables,
            Feedback(synapses, dict(state.memory)),
            unpack_state(self.runs, of_params, like, params, 'params'),
            unpack_state(self.runs, of_edges, like_edges, synapses, 'edges'),
        )

    def check_optimizers(
        self, optimizer: optax.GradientTransformation, synapse_optimizer: optax.GradientTransformation
    ) -> None:
        """Raises ValueError unless they do to each block's part of the trees what they do to the whole."""
        require_optimizer('optimizer', optimizer)
        require_optimizer('synapse_optimizer', synapse_optimizer)
        self._check(optimizer, self.variables['params'], 'params', 'parameters')
        self._check(synapse_optimizer, self.feedback.synapses, 'edges', 'error synapses')

    def _check(self, optimizer: optax.GradientTransformation, tree: PyTree, field: str, what: str) -> None:
        runs = [[getattr(block, field) for block in run] for run in self.runs]
        check_blockwise(optimizer, to_flat(tree, field), lambda flat: from_flat(tree, flat, field), runs, what)


def advance(
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    own: Own,
    grads: LocalGrads,
    stats: Flat,
) -> Own:
    """One block after a step of (optimizer, synapse optimizer)."""
    held = own.held
    steps = zip(optimizers, grads, own[1:], (held.params, held.synapses), strict=True)
    (params, params_state), (edges, edges_state) = (_apply(*step) for step in steps)
    return Own(Held(params, {**held.stats, **stats}, edges), params_state, edges_state)


def _apply(optimizer: optax.GradientTransformation, grads: Any, state: Any, values: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(grads, state, values)
    return optax.apply_updates(values, updates), state


def _kind(leaf: Any) -> tuple[Any, ...]:
    """What a program that was traced with one array asks of another."""
    return leaf.shape, leaf.dtype
