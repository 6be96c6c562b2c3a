"""The stage pipeline: every stage of the model has a device of its own, which holds its weights and never sends them.

Microbatches flow up from stage to stage. The logits are broadcast to all, and that is all that comes back: with them
each stage finds the targets, errors and updates of its own regions, all stages at once. There is no backward sweep, so
the pipeline's only bubble is that of the forward pass.

A stage is one or several blocks of `blocks.find_runs`, cut so that the largest number of parameters is least. Unlike
stages share a sharding by the rows that `Layout` puts their arrays in; equal stages share a branch of the program.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlra_jax.capture import OUTPUT
from rlra_jax.options import Options
from rlra_jax.parallel import local
from rlra_jax.parallel.blocks import Block
from rlra_jax.parallel.dissect import INPUT, Part, check_independent, dissect
from rlra_jax.parallel.layout import Layout, Rows
from rlra_jax.parallel.local import Passed, Setting
from rlra_jax.parallel.packing import PackedState, PackedStep, Packing, advance
from rlra_jax.train_step import TrainState
from rlra_jax.types import Array, Aux, Batch, LocalGrads, Variables, Wiring
from rlra_jax.update import add_noise, init_feedback, rescale, widen
from rlra_jax.validate import check_batch, require, require_count, score


class StagedState(NamedTuple):
    """A TrainState with one row per stage."""

    rows: Rows
    memory: dict[str, Array]


def stage_step(
    model: nn.Module,
    wiring: Wiring,
    mesh: Mesh,
    variables: Variables,
    x: Array,
    optimizer: optax.GradientTransformation,
    synapse_optimizer: optax.GradientTransformation | None = None,
    *,
    microbatches: int = 1,
    synapse_std: float = 0.05,
    train_kwargs: Mapping[str, Any] | None = None,
    **hyper_parameters: Any,
) -> PackedStep[StagedState]:
    """A rec-LRA training step over a mesh's 'data' and 'stage' axes.

    Batches lie as `mesh.shard_batch` puts them. `init` and `pack` return a state that is spread over the stages
    already; `unpack` brings it together again.

    Args:
      model: a linen module whose activations are Sites, without batch statistics.
      wiring: its error pathways, of other rules than `mirror`.
      mesh: from `make_mesh`; its stage axis tells how many stages there are.
      variables: what `model.init` returned, or its shapes.
      x: an example of the whole batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      optimizer: of the parameters; one that needs no gradients of other stages.
      synapse_optimizer: of the error synapses, the same; plain SGD at 0.5 if None.
      microbatches: how many parts of a device's share of the batch follow each other up the pipeline.
      synapse_std: standard deviation of the initial synapses.
      train_kwargs: further keyword arguments of the model's call.
      **hyper_parameters: those of `options.Options`.

    Raises:
      ValueError: the model cannot be cut into that many stages, has batch statistics or draws random numbers; the batch
        does not split; an edge has the rule `mirror`; or an optimizer needs the whole tree.
    """
    options = Options(**hyper_parameters)
    synapse_optimizer = optax.sgd(0.5) if synapse_optimizer is None else synapse_optimizer
    optimizers = optimizer, synapse_optimizer
    require_count('microbatches', microbatches)
    require(mesh.shape['level'] == 1, 'the level axis', '1 in stage mode', mesh.shape['level'])
    if any(edge.rule == 'mirror' for edge in wiring.edges):
        raise ValueError(
            'stage mode does not run the noisy passes of the rule `mirror`; wire with kp, hebbian or fixed'
        )
    parts = dissect(model, variables, x, jax.random.key(0), train_kwargs=train_kwargs)
    check_independent(parts, 'stage')
    stages = mesh.shape['stage']
    packing = Packing(model, wiring, variables, x, options=options, train_kwargs=train_kwargs, stages=stages)

    def first_state(key: Array, variables: Variables, x: Array) -> TrainState:
        feedback = init_feedback(key, model, wiring, variables, x, std=synapse_std, train_kwargs=train_kwargs)
        states = optimizer.init(variables['params']), synapse_optimizer.init(feedback.synapses)
        return TrainState(variables, feedback, *states)

    plain = jax.eval_shape(first_state, jax.random.key(0), variables, x)
    packing.check_optimizer(optimizer, plain.variables['params'], 'params')
    packing.check_optimizer(synapse_optimizer, plain.feedback.synapses, 'edges')
    owned = jax.eval_shape(packing.pack, plain).runs
    layout = Layout([jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), own) for own in owned])
    kind = [next(k for k, run in enumerate(packing.runs) if stage in run) for stage in packing.stages]
    place = [packing.runs[k].index(stage) for k, stage in zip(kind, packing.stages, strict=True)]
    shared = ('data',) if mesh.shape['data'] > 1 else ()  # where every stage has one device, nothing is summed
    on_stages = NamedSharding(mesh, PartitionSpec('stage'))

    def pack(state: TrainState) -> StagedState:
        runs = packing.pack(state).runs
        rows = [layout.flat(jax.tree.map(lambda a, i=i: a[i], runs[k])) for k, i in zip(kind, place, strict=True)]
        stacked = {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}
        return StagedState(jax.device_put(stacked, on_stages), dict(state.feedback.memory))

    def unpack(state: StagedState) -> TrainState:
        own = [layout.tree(k, {name: row[s] for name, row in state.rows.items()}) for s, k in enumerate(kind)]
        runs = tuple(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(own[s] for s, of in enumerate(kind) if of == k))
            for k in range(len(packing.runs))
        )
        return packing.unpack(PackedState(runs, state.memory), *optimizers)

    def update(state: StagedState, batch: Batch, key: Array) -> tuple[StagedState, Aux]:
        check_batch(batch)
        key_input, key_model, _ = jax.random.split(key, 3)
        size = len(batch['label'])
        ways = mesh.shape['data'] * microbatches
        require(size % ways == 0, 'the batch', f'a multiple of data x microbatches = {ways}', size)
        image = add_noise(batch['image'], options.input_noise, key_input)

        def body(rows: Rows, x: Array, label: Array, key: Array):
            pipeline = _Pipeline(
                model, packing, kind, layout, options, train_kwargs, x, key, microbatches, size, shared
            )
            own = {name: row[0] for name, row in rows.items()}
            new, logits, missed = pipeline.run(own, label, optimizers)
            return {name: row[None] for name, row in new.items()}, logits, missed

        spec, examples = PartitionSpec, PartitionSpec(*shared)
        rows, logits, missed = jax.shard_map(
            body,
            mesh=mesh,
            in_specs=(spec('stage'), examples, examples, spec()),
            out_specs=(spec('stage'), examples, spec()),
        )(state.rows, image, batch['label'], key_model)
        loss, error = score(logits, batch['label'])
        memory = {**state.memory, 'step': state.memory['step'] + 1}
        return StagedState(rows, memory), Aux(loss, error, logits, {}, missed / size)

    def init(key: Array, variables: Variables, batch: Batch) -> StagedState:
        return pack(first_state(key, variables, batch['image']))

    return PackedStep(init, update, pack, unpack)


class _Pipeline:
    """What each device does, inside shard_map."""

    def __init__(
        self,
        model: nn.Module,
        packing: Packing,
        kind: list[int],
        layout: Layout,
        options: Options,
        train_kwargs: Mapping[str, Any] | None,
        x: Array,
        key: Array,
        microbatches: int,
        size: int,
        shared: tuple[str, ...],
    ):
        self.layout, self.microbatches = layout, microbatches
        self.updates = Layout([LocalGrads(own.held.params, own.held.synapses) for own in layout.trees])
        self.index = lax.axis_index('stage')
        self.shared = shared
        self.x = lax.pcast(x, 'stage', to='varying')
        key = self._varying(key)
        variables = jax.tree.map(lambda leaf: self._varying(jnp.zeros(leaf.shape, leaf.dtype)), packing.variables)

        def setting(size_here: int) -> Setting:
            like = self._varying(jnp.zeros((size_here, *x.shape[1:]), x.dtype))
            parts = dissect(model, variables, like, key, train_kwargs=train_kwargs)
            return local.setting(parts, options, key, size)

        self.micro, self.whole = setting(len(x) // microbatches), setting(len(x))
        self.kinds = [run[0] for run in packing.runs]
        self.kind = jnp.array(kind)[self.index]
        self.depth = len(kind)
        parts = self.micro.parts
        self.dtype = jnp.result_type(*(part.dtype for part in parts.values()))
        self.wire = max(_features(parts, [stage.regions[-1]]) for stage in self.kinds)  # what flows from stage to stage
        self.trace = max(_features(parts, stage.regions) for stage in self.kinds)  # what a stage must remember

    def run(self, own: Rows, label: Array, optimizers: Any) -> tuple[Rows, Array, Array]:
        """(the stage's new rows, logits, total discrepancy summed over the batch)."""
        mine = {name: lax.pcast(row, self.shared, to='varying') for name, row in own.items()}
        entries, traces, logits = self._forward(mine)
        known = lax.pcast(logits, 'stage', to='varying'), lax.pcast(label, 'stage', to='varying')
        if self.shared:
            grads, missed = self._switch(self._learn, mine, entries, traces, *known)
            grads = lax.psum(grads, self.shared)
            new = self._in_place(lambda block, k, rows: self._advance(optimizers, block, k, rows, grads), own)
            return new, logits, lax.psum(missed, (*self.shared, 'stage'))

        def learn(block: Block, k: int, state: tuple[Rows, Array]) -> tuple[Rows, Array]:
            rows, _ = state
            grads, missed = self._learn(block, k, rows, entries, traces, *known)
            # A sum of squares is not below 0, but the compiler does not know: it must read all synapses, which errors
            # pass, before it writes one. (Weights are not read any more.)
            held = self.updates.tree(k, grads)
            synapses = jax.tree.map(lambda g: jnp.where(missed < 0, 0, g), held.synapses)
            rest = self.updates.flat(held._replace(synapses=synapses), self._varying)
            grads = jax.tree.map(lax.optimization_barrier, rest)
            rows = jax.tree.map(lax.optimization_barrier, rows)
            return self._advance(optimizers, block, k, rows, grads), missed

        new, missed = self._in_place(learn, (own, self._varying(jnp.zeros((), logits.dtype))))
        return new, logits, lax.psum(missed, 'stage')

    def _varying(self, leaf: Array) -> Array:
        """Marks a copy as each device's own: differentiating in it then sums over no devices behind our back."""
        return lax.pcast(leaf, (*self.shared, 'stage'), to='varying')

    def _switch(self, method: Callable[..., Any], *operands: Any) -> Any:
        """method(block, its kind, *operands) for the kind of this device's stage."""
        branches = [functools.partial(method, block, k) for k, block in enumerate(self.kinds)]
        return branches[0](*operands) if len(branches) == 1 else lax.switch(self.kind, branches, *operands)

    def _in_place(self, method: Callable[[Block, int, Any], Any], state: Any) -> Any:
        """method(block, its kind, state) for the kind of this device's stage, written over the state.

        XLA copies what leaves a branch into the donated state, but not what leaves a loop: hence loops of one turn or
        none.
        """
        for k, block in enumerate(self.kinds):
            turns = (self.kind == k).astype(jnp.int32)
            state = lax.fori_loop(0, turns, lambda _, state, k=k, block=block: method(block, k, state), state)
        return state

    def _forward(self, own: Rows) -> tuple[Array, Array, Array]:
        """The pipeline: (what entered [b, wire], every h [b, trace], logits [b, classes])."""
        size, count, last = len(self.x) // self.microbatches, self.microbatches, self.depth - 1
        upwards = [(i, i + 1) for i in range(last)]

        def idle() -> tuple[Array, Array]:
            leaving, trace = (self._varying(jnp.zeros((size, n), self.dtype)) for n in (self.wire, self.trace))
            return leaving, trace

        def tick(arriving: Array, t: Array):
            """Stage s works on microbatch t - s, if there is one."""
            image = lax.dynamic_slice_in_dim(self.x, jnp.clip(t, 0, count - 1) * size, size)
            busy = (t >= self.index) & (t - self.index < count)
            leaving, trace = lax.cond(busy, lambda: self._switch(self._climb, own, image, arriving), idle)
            return lax.ppermute(leaving, 'stage', upwards), (arriving, trace, leaving)

        start = self._varying(jnp.zeros((size, self.wire), self.dtype))
        _, (entries, traces, leaving) = lax.scan(tick, start, jnp.arange(count + last))
        entries, traces = (
            lax.dynamic_slice_in_dim(a, self.index, count).reshape(len(self.x), -1) for a in (entries, traces)
        )
        classes = self.micro.parts[OUTPUT].shape[1]
        logits = widen(leaving[last:, :, :classes].reshape(len(self.x), classes))
        return entries, traces, lax.psum(jnp.where(self.index == last, logits, 0), 'stage')

    def _climb(self, block: Block, k: int, own: Rows, image: Array, arriving: Array) -> tuple[Array, Array]:
        """A stage's forward pass of a microbatch: (what leaves it, every h), both flat."""
        passed = local.forward(self.micro, block, self.layout.tree(k, own).held, self._entry(block, image, arriving))
        leaving = passed.z[block.regions[-1]]
        return _flat([leaving], self.wire, self.dtype), _flat(passed.h.values(), self.trace, self.dtype)

    def _entry(self, block: Block, image: Array, arriving: Array) -> Array:
        """What enters a stage, in its own shape."""
        if block.entry == INPUT:
            return image
        part = self.micro.parts[block.entry]
        return _unflat(arriving, [part])[0]

    def _learn(self, block: Block, k: int, own: Rows, entries: Array, traces: Array, logits: Array, label: Array):
        """(a stage's gradients as rows, its part of the total discrepancy)."""
        held = self.layout.tree(k, own).held
        parts = self.whole.parts
        h = dict(zip(block.regions, _unflat(traces, [parts[name] for name in block.regions]), strict=True))
        z = {block.entry: self._entry(block, self.x, entries)}
        for name in block.regions:
            phi = parts[name].phi
            z[name] = h[name] if phi is None else phi(h[name])
        grads, missed = local.learn(self.whole, block, held, Passed(h, z, {}), logits, label, None)
        return self.updates.flat(grads, self._varying), missed

    def _advance(self, optimizers: Any, block: Block, k: int, own: Rows, grads: Rows) -> Rows:
        """A stage's rows after the optimizers' step."""
        before = self.layout.tree(k, own)
        found = rescale(self.updates.tree(k, grads), self.whole.options)
        after = advance(optimizers, before, found, {})
        return self.layout.flat(after, lambda row: lax.pcast(row, 'stage', to='varying'))


def _flat(arrays: Iterable[Array], width: int, dtype: Any) -> Array:
    """[B, ...] arrays side by side, [B, width]."""
    rows = jnp.concatenate([array.reshape(array.shape[0], -1).astype(dtype) for array in arrays], axis=1)
    return jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def _unflat(rows: Array, parts: Sequence[Part]) -> list[Array]:
    """The inverse: one array for each part, with the shape and dtype of its h."""
    arrays, start = [], 0
    for part in parts:
        size = math.prod(part.shape[1:])
        arrays.append(rows[:, start : start + size].reshape(-1, *part.shape[1:]).astype(part.dtype))
        start += size
    return arrays


def _features(parts: Mapping[str, Part], names: Iterable[str]) -> int:
    return sum(math.prod(parts[name].shape[1:]) for name in names)
