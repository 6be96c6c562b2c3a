"""The stage pipeline: every stage of the model has a device of its own, which holds its weights and never sends them.

Microbatches flow up from stage to stage. The logits are broadcast to all, and that is all that comes back: with them
each stage finds the targets, errors and updates of its own regions, all stages at once. There is no backward sweep, so
the pipeline's only bubble is that of the forward pass. (The rule `Mirror` adds noisy forward passes and one more
broadcast, of the response at the output, in the steps that mirror. With `overlap` a stage also sends what its own
errors displace to the stage below, and that is where they end.)

No stage waits for another's update. Still the exact step cannot start the next batch before the logits of this one have
come, since its weights depend on them: with S stages and M microbatches it takes M + S - 1 ticks before it learns. The
delayed step does not wait: the pipeline stays full, and a batch takes M ticks. The price is older weights. When an
update comes, S - 1 - s microbatches are between stage s and the last stage, and they have met the weights before it.
Count microbatches m and stages s from 0: in stage s, microbatch m meets weights without the last
ceil((S - 1 - s - m) / M) updates. The last stage's are always current. At most one update is missing if M is at least
S - 1, and none at the start of a call. All that learning itself uses (synapses, and a region's own weights where its
operation is not linear) is current; activities are those that were found.

A stage is one or several blocks of `blocks.find_runs`, cut so that the largest number of parameters is least. Unlike
stages share a sharding by the rows that `Layout` puts their arrays in; equal stages share a branch of the program.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlra_jax.edges import Wiring
from rlra_jax.learners.rec_lra import update_fn
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.parallel.dissect import check_independent
from rlra_jax.parallel.layout import Layout, Rows
from rlra_jax.parallel.mesh import check_mesh
from rlra_jax.parallel.optimizer_state import check_optimizer
from rlra_jax.parallel.packing import PackedState, Packing, copied
from rlra_jax.parallel.pipeline import Batches, Pipeline
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.update import add_noise
from rlra_jax.rules.mirror import mirror_of
from rlra_jax.train_step import TrainState
from rlra_jax.types import Array, Aux, Batch, Loss, Variables
from rlra_jax.validate import check_batch, check_key, require, require_count
from rlra_jax.wiring.levels import settled

_DEFAULTS = Options()


class StagedState(NamedTuple):
    """A TrainState with one row per stage."""

    rows: Rows
    memory: dict[str, Array]


class StagedStep(NamedTuple):
    """A `PackedStep` that can also let steps overlap."""

    init: Callable[..., StagedState]  # (key, variables=None)
    update: Callable[[StagedState, Batch, Array], tuple[StagedState, Aux]]  # (state, batch, key)
    delayed: Callable[[StagedState, Batch, Array], tuple[StagedState, Aux]]  # (state, batches [K, B, ...], keys [K])
    pack: Callable[[TrainState], StagedState]  # from the state of `make_train_step` with the same optimizer
    unpack: Callable[[StagedState], TrainState]  # back to it, for evaluation and checkpoints


def stage_step(
    net: Net,
    wiring: Wiring | Callable[[Net], Wiring],
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    options: Options = _DEFAULTS,
    *,
    microbatches: int = 1,
    loss: Loss = softmax_cross_entropy,
    synapse_std: float = 0.05,
    allow: Collection[str] = (),
) -> StagedStep:
    """A rec-LRA training step over a mesh's 'data' and 'stage' axes.

    `update` is the exact step. `delayed` takes K consecutive batches `[K, B, ...]` and as many keys, and lets their
    steps overlap as said above; every leaf of its aux is `[K, ...]`, and with one batch it is exact. Batches lie as
    `mesh.shard_batch` puts them. `init` and `pack` return a state that is spread over the stages already; `unpack`
    brings it together again.

    Args:
      net: what `regions` returned, of a linen module without batch statistics and an example of the whole batch.
      wiring: its error pathways, or a function of the net that makes them.
      mesh: from `make_mesh`; its stage axis tells how many stages there are.
      optimizer: of the weights; one that needs no gradients of other stages.
      options: hyper-parameters.
      microbatches: how many parts of a device's share of the batch follow each other up the pipeline.
      loss: (outputs, batch) -> `[B]`.
      synapse_std: standard deviation of the initial straight synapses.
      allow: as for `update_fn`.

    Raises:
      ValueError: the mesh is not one of `make_mesh`, or has a level axis; microbatches below 1; the model is of nnx,
        cannot be cut into that many stages, has batch statistics, draws random numbers, or as `stream_step` says; the
        batch does not split; or the optimizer needs the whole tree or the loss. By `delayed`: the rule `Mirror` without
        antithetic passes.
    """
    check_mesh(mesh)
    wiring = settled(wiring, net)
    learner = update_fn(net, wiring, options, loss=loss, synapse_std=synapse_std, allow=allow)
    require_count('microbatches', microbatches)
    require(mesh.shape['level'] == 1, 'the level axis', '1 in stage mode', mesh.shape['level'])
    stages = mesh.shape['stage']
    mirror = mirror_of(wiring)
    packing = Packing(net, wiring, options=options, stages=stages)
    check_independent(packing.parts, 'stage')
    check_optimizer(optimizer, packing.runs, packing.weights)
    plain = TrainState(packing.weights, packing.state, jax.eval_shape(optimizer.init, packing.weights))
    owned = jax.eval_shape(lambda state: packing.pack(state, optimizer), plain).runs
    layout = Layout([jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), own) for own in owned])
    kind = [k for k, _ in packing.places]
    shared = ('data',) if mesh.shape['data'] > 1 else ()  # where every stage has one device, nothing is summed
    on_stages = NamedSharding(mesh, PartitionSpec('stage'))

    def pack(state: TrainState) -> StagedState:
        runs = packing.pack(state, optimizer).runs
        rows = [layout.flat(jax.tree.map(lambda a, i=i: a[i], runs[k]), layout.empty()) for k, i in packing.places]
        stacked = jax.tree.map(lambda *own: jnp.stack(own), *rows)
        return StagedState(jax.device_put(stacked, on_stages), copied(state.state.memory))

    def unpack(state: StagedState) -> TrainState:
        own = [layout.tree(k, {name: row[s] for name, row in state.rows.items()}) for s, k in enumerate(kind)]
        runs = tuple(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(own[s] for s, of in enumerate(kind) if of == k))
            for k in range(len(packing.runs))
        )
        return packing.unpack(PackedState(runs, state.memory), optimizer)

    def run(state: StagedState, batches: Batch, keys: Array) -> tuple[StagedState, Aux]:
        """Steps over batches with a leading axis [K]."""
        number, size = batches[packing.input].shape[:2]
        ways = mesh.shape['data'] * microbatches
        require(size % ways == 0, 'the batch', f'a multiple of data x microbatches = {ways}', size)
        key_input, _, key_mirror = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        batches = jax.vmap(lambda batch, key: add_noise(batch, options.input_noise, key))(dict(batches), key_input)
        step = state.memory['step'] + jnp.arange(number)

        def body(rows: Rows, batches: Batch, key: Array, step: Array):
            x = batches[packing.input]
            share = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
            pipeline = Pipeline(net, packing, layout, options, loss, optimizer, share, microbatches, size, shared)
            own = {name: row[0] for name, row in rows.items()}
            new, outputs, missed = pipeline.run(own, Batches(batches, key, step))
            return {name: row[None] for name, row in new.items()}, outputs, missed

        spec, examples = PartitionSpec, PartitionSpec(None, *shared)
        rows, outputs, missed = jax.shard_map(
            body,
            mesh=mesh,
            in_specs=(spec('stage'), examples, spec(), spec()),
            out_specs=(spec('stage'), examples, spec()),
        )(state.rows, batches, key_mirror, step)
        losses = jax.vmap(loss)(outputs, batches).mean(axis=1)
        memory = {**state.memory, 'step': state.memory['step'] + number}
        return StagedState(rows, memory), Aux(losses, outputs, missed / size)

    def update(state: StagedState, batch: Batch, key: Array) -> tuple[StagedState, Aux]:
        check_batch(batch, net.example)
        check_key(key)
        state, aux = run(state, jax.tree.map(lambda leaf: leaf[None], dict(batch)), key[None])
        return state, jax.tree.map(lambda leaf: leaf[0], aux)

    def delayed(state: StagedState, batches: Batch, keys: Array) -> tuple[StagedState, Aux]:
        shapes = {name: jnp.shape(leaf) for name, leaf in {**batches, 'keys': keys}.items()}
        firsts = {shape[:1] for shape in shapes.values()}
        require(len(firsts) == 1 and () not in firsts, 'batches and keys', 'K of each along their first axis', shapes)
        one = jax.eval_shape(lambda batches: jax.tree.map(lambda leaf: leaf[0], batches), dict(batches))
        check_batch(one, net.example)
        if mirror is not None and not mirror.antithetic:
            raise ValueError(
                'one-sided noisy passes do not go with delayed updates: they would take the step from old to new '
                'weights for a response to noise; leave antithetic on'
            )
        return run(state, batches, keys)

    def init(key: Array, variables: Variables | None = None) -> StagedState:
        weights, state = learner.init(key, variables)
        return pack(TrainState(weights, state, optimizer.init(weights)))

    return StagedStep(init, update, delayed, pack, unpack)
