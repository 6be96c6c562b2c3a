"""What each device of the stage pipeline does, inside shard_map; see `stage.py` for the whole.

In a tick every stage runs one microbatch and hands what leaves it to the stage above. It writes down what it will learn
from, and learns when the outputs of the whole batch have come.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rlra_jax.compiler import apart_in_time, varying
from rlra_jax.loss import loss_and_error, widen
from rlra_jax.model.capture import OUTPUT
from rlra_jax.model.net import Net
from rlra_jax.parallel import block_noise
from rlra_jax.parallel.block_noise import Mirroring, Noises, Residual
from rlra_jax.parallel.blocks import Block, take
from rlra_jax.parallel.dissect import dissect
from rlra_jax.parallel.kinds import Kinds
from rlra_jax.parallel.layout import Layout, Rows
from rlra_jax.parallel.packing import Packing
from rlra_jax.parallel.setting import Setting, setting
from rlra_jax.parallel.stage_work import Seen, StageWork
from rlra_jax.recursion.options import Options
from rlra_jax.rules import noisy_passes
from rlra_jax.rules.mirror import mirror_of
from rlra_jax.types import Array, Batch, Loss


class Batches(NamedTuple):
    """A device's share of consecutive batches."""

    arrays: Batch  # [K, b, ...] each
    key: Array  # [K] of the noisy passes
    step: Array  # int32 [K]


class Record(NamedTuple):
    """What a stage writes down of microbatches that passed it, `[ticks, microbatch, ...]`."""

    entry: Array  # what entered it
    trace: Array  # every h
    leaving: Array


class Pipeline:
    """A stage's part in a step."""

    def __init__(
        self,
        net: Net,
        packing: Packing,
        layout: Layout,
        options: Options,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        share: jax.ShapeDtypeStruct,
        microbatches: int,
        size: int,
        shared: tuple[str, ...],
    ):
        self.wiring, self.runs, self.input, self.loss = packing.wiring, packing.runs, packing.input, loss
        self.microbatches, self.shared, self.share = microbatches, shared, len(share)
        self.index = lax.axis_index('stage')
        part = lax.axis_index(shared) if shared else 0
        key = self._varying(jax.random.key(0))  # no region draws from it
        variables = jax.tree.map(lambda leaf: self._varying(jnp.zeros(leaf.shape, leaf.dtype)), packing.variables)

        def of_examples(examples: int) -> Setting:
            like = self._varying(jnp.zeros((examples, *share.shape[1:]), share.dtype))
            parts = dissect(net, variables, like, key)
            return setting(parts, options, self.wiring, key, size, part * self.share, shared)

        self.micro, self.whole = of_examples(self.share // microbatches), of_examples(self.share)
        kind, self.place = jnp.array(packing.places)[self.index]
        self.kinds = Kinds([run[0] for run in packing.runs], kind)
        flows = [packing.flow(block) for block in self.kinds.blocks]
        self.work = StageWork(self.kinds.blocks, flows, layout, optimizer, self.micro, self.whole, self._varying)
        self.depth = len(packing.stages)
        self.top = self.index == self.depth - 1
        self.output = math.prod(self.micro.parts[OUTPUT].shape[1:])  # numbers of an example's outputs

    def run(self, own: Rows, batches: Batches) -> tuple[Rows, Array, Array]:
        """(the stage's new rows, outputs [K, b, ...], total discrepancy of each batch, summed over examples).

        The pipeline is filled once. From then on a batch takes as many ticks as it has microbatches, and those below
        the last stage are at work on the next batch already when the update comes: with weights that it will change.
        """
        count, ahead = self.microbatches, self.depth - 1
        images = self._parts(self._on_stages(batches.arrays[self.input]))
        arriving = self._varying(jnp.zeros((len(images[0]), self.work.wire), self.work.dtype))
        if len(batches.step) == 1:
            _, record = self._forward(own, images, arriving, 0, ahead + count)
            new, outputs, missed = self._update(own, record, jax.tree.map(lambda leaf: leaf[0], batches))
            return new, outputs[None], missed[None]

        def step(carry: tuple[Rows, Array, Record], one: tuple[Batches, Array]):
            own, arriving, begun = carry
            batch, first = one
            arriving, record = self._forward(own, images, arriving, first, count)
            record = jax.tree.map(lambda *a: jnp.concatenate(a), begun, record)
            begun = jax.tree.map(lambda a: a[count:], record)
            own, *found = self._update(own, record, batch)
            return (own, arriving, begun), found

        arriving, begun = self._forward(own, images, arriving, 0, ahead)
        firsts = ahead + count * jnp.arange(len(batches.step))
        (new, _, _), (outputs, missed) = lax.scan(step, (own, arriving, begun), (batches, firsts))
        return new, outputs, missed

    def _varying(self, leaf: Array) -> Array:
        """A copy as each device's own."""
        return varying(leaf, (*self.shared, 'stage'))

    def _on_stages(self, leaf: Array) -> Array:
        return varying(leaf, 'stage')

    def _mine(self, own: Rows) -> Rows:
        return varying(own, self.shared)

    def _parts(self, x: Array) -> Array:
        """[K, b, ...] -> the microbatches of all batches, [K x microbatches, ...]."""
        return x.reshape(-1, self.share // self.microbatches, *x.shape[2:])

    def _flow(
        self,
        visit: Callable[[Array, Array], tuple[Array, Any]],
        arriving: Array,
        first: Array | int,
        ticks: int,
        total: int,
    ) -> tuple[Array, Any]:
        """Some ticks: stage s works on microbatch t - s at tick t, if there is one.

        Args:
          visit: (number of the microbatch, what arrives `[microbatch, width]`) -> (what leaves, what is kept).
          arriving: what the stage below sent in the last tick.
          first: number of the first tick.
          ticks: how many.
          total: how many microbatches there are.

        Returns:
          (what arrives for the next tick, what is kept `[ticks, ...]`, zeros where there was no microbatch).
        """
        upwards = [(i, i + 1) for i in range(self.depth - 1)]

        def tick(arriving: Array, t: Array):
            number = jnp.clip(t - self.index, 0, total - 1)

            def work() -> tuple[Array, Any]:
                return visit(number, arriving)

            def rest() -> tuple[Array, Any]:
                return jax.tree.map(lambda a: self._varying(jnp.zeros(a.shape, a.dtype)), jax.eval_shape(work))

            leaving, kept = lax.cond(number == t - self.index, work, rest)
            return lax.ppermute(leaving, 'stage', upwards), kept

        return lax.scan(tick, arriving, first + jnp.arange(ticks))

    def _forward(
        self, own: Rows, images: Array, arriving: Array, first: Array | int, ticks: int
    ) -> tuple[Array, Record]:
        """(what arrives next, what the stage writes down)."""
        mine = self._mine(own)

        def visit(number: Array, arriving: Array) -> tuple[Array, Record]:
            leaving, trace = self.kinds.switch(self.work.climb, mine, images[number], arriving)
            return leaving, Record(arriving, trace, leaving)

        return self._flow(visit, arriving, first, ticks, len(images))

    def _update(self, own: Rows, record: Record, batch: Batches) -> tuple[Rows, Array, Array]:
        """(the stage's new rows, outputs, total discrepancy summed over the batch).

        Args:
          own: the stage's rows.
          record: of `depth - 1 + microbatches` ticks, the last stage's last of which brought the batch's last outputs.
          batch: a single one.
        """
        entries, traces = (
            lax.dynamic_slice_in_dim(a, self.index, self.microbatches).reshape(self.share, -1)
            for a in (record.entry, record.trace)
        )
        outputs = self._whole(record.leaving[self.depth - 1 :, :, : self.output])
        outputs = lax.psum(jnp.where(self.top, outputs, 0), 'stage')
        _, e = loss_and_error(self.loss, outputs, batch.arrays)
        x, own_outputs, own_e = map(self._on_stages, (batch.arrays[self.input], outputs, e))
        seen = Seen(x, entries, traces, own_outputs, own_e)
        if self.wiring.own:
            own_errors, handed = self.kinds.switch(self.work.hand, self._mine(own), seen)
            downwards = [(i + 1, i) for i in range(self.depth - 1)]
            seen = seen._replace(own=own_errors, from_above=lax.ppermute(handed, 'stage', downwards))
        sent, missed = self.kinds.switch(self.work.send, self._mine(own), seen)
        # Now, since after learning every stage would wait here for the slowest.
        missed = lax.psum(missed, (*self.shared, 'stage'))
        mirroring = self._mirror(own, batch, outputs, after=missed)
        known: Any = (seen, sent, mirroring)
        if self.shared:
            rows = self.kinds.switch(self.work.learn_rows, self._mine(own), *known)
            return self.kinds.in_place(self.work.advance_rows, own, lax.psum(rows, self.shared)), outputs, missed

        def learn(block: Block, k: int, own: Rows, *known: Any) -> Rows:
            own, grads = apart_in_time(own, self.work.learn(block, k, own, *known))
            return self.work.advance(k, own, grads)

        return self.kinds.in_place(learn, own, *known), outputs, missed

    def _whole(self, parts: Array) -> Array:
        """A batch's microbatches of outputs, or what is like them, flat -> `[b, ...]`, widened."""
        return widen(parts).reshape(self.share, *self.whole.parts[OUTPUT].shape[1:])

    def _mirror(self, own: Rows, batch: Batches, outputs: Array, after: Array) -> Mirroring | None:
        """The noisy passes of edges from the output, not before `after`; None if no edge learns from noise."""
        if mirror_of(self.wiring) is None:
            return None
        active = batch.step % self.whole.mirror.every == 0
        noises = [  # for each kind of stage: `_learn` takes those of its own
            take(jax.tree.map(self._varying, of_kind), self.place)
            for of_kind in block_noise.noises(self.runs, self.wiring, self.micro.parts, batch.key)
        ]
        inputs = block_noise.outer_inputs(self.wiring, self.micro.parts)
        residual = jnp.zeros_like(outputs)
        if inputs:
            nothing = residual
            residual = lax.cond(
                active, lambda: self._residual(own, batch.arrays[self.input], noises, outputs, after), lambda: nothing
            )
        scale = noisy_passes.curvature(inputs, self.whole.size, self.whole.mirror.std)
        return Mirroring(active, Residual(self._on_stages(residual), scale), noises)  # type: ignore[arg-type]

    def _residual(self, own: Rows, image: Array, noises: Sequence[Noises], outputs: Array, after: Array) -> Array:
        """What the synapses from the output fail to predict of the outputs' response to noise `[b, ...]`."""
        images, mine = self._parts(self._on_stages(image)[None]), self._mine(own)
        size, copies = len(images[0]), len(self.micro.signs)

        def visit(number: Array, arriving: Array) -> tuple[Array, tuple[Array, Array]]:
            start = self.micro.start + number * size
            leaving, guess = self.kinds.switch(self.work.perturb, mine, images[number], arriving, noises, start)
            return leaving, (leaving[..., : self.output], guess)

        # Nobody reads what arrives for the first tick. That it needs a sum over stages keeps devices from going on to
        # this flow before they have all added to it: collectives must come in one order everywhere.
        arriving = jnp.full((copies, size, self.work.wire), self._varying(after), self.work.dtype)
        ticks = self.depth - 1 + self.microbatches
        _, (leaving, guesses) = self._flow(visit, arriving, 0, ticks, self.microbatches)
        found = [self._whole(leaving[self.depth - 1 :, copy]) for copy in range(copies)]
        guess = self._whole(lax.dynamic_slice_in_dim(guesses, self.index, self.microbatches))
        return lax.psum(jnp.where(self.top, block_noise.response(self.micro, found, outputs), 0) - guess, 'stage')
