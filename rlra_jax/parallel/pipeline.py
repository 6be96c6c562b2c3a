"""What each device of the stage pipeline does, inside shard_map; see `stage.py` for the whole.

In a tick every stage runs one microbatch and hands what leaves it to the stage above. It writes down what it will learn
from, and learns when the outputs of the whole batch have come.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rlra_jax.compiler import apart_in_time, varying
from rlra_jax.edges import Carries, Edge
from rlra_jax.loss import loss_and_error, widen
from rlra_jax.model.capture import OUTPUT
from rlra_jax.model.net import Net
from rlra_jax.parallel import block_noise, block_update, forward_pass
from rlra_jax.parallel.block_noise import Mirroring, Noises, Residual
from rlra_jax.parallel.blocks import Block, take
from rlra_jax.parallel.dissect import INPUT, dissect
from rlra_jax.parallel.forward_pass import Flow, Held, Passed
from rlra_jax.parallel.kinds import Kinds
from rlra_jax.parallel.layout import Layout, Rows, apart, beside, features
from rlra_jax.parallel.packing import Packing, advance
from rlra_jax.parallel.setting import Setting, setting
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.propagate import Signals
from rlra_jax.recursion.update import rescale
from rlra_jax.rules import noisy_passes
from rlra_jax.rules.mirror import mirror_of
from rlra_jax.synapses.path import Along
from rlra_jax.types import Array, Batch, Loss, Weights


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


class Seen(NamedTuple):
    """What a stage knows of a batch once its outputs have come."""

    x: Array  # [b, ...]
    entry: Array  # [b, width] what entered it, flat
    trace: Array  # [b, width] every h, flat
    outputs: Array  # [b, ...]
    e: Array  # [b, ...] error neurons of the outputs
    own: Array | None = None  # [b, width] the displacements of edges that carry own errors, flat; None: there are none
    from_above: Array | None = None  # [b, width] what the stage above handed down, flat


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
        self.wiring, self.layout, self.optimizer, self.microbatches = packing.wiring, layout, optimizer, microbatches
        self.runs, self.input, self.loss = packing.runs, packing.input, loss
        self.updates = Layout([{'params': own.held.params, 'synapses': own.held.synapses} for own in layout.trees])
        self.index = lax.axis_index('stage')
        self.shared = shared
        self.share = len(share)
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
        self.depth = len(packing.stages)
        self.top = self.index == self.depth - 1
        parts = self.micro.parts
        self.output = math.prod(parts[OUTPUT].shape[1:])  # numbers of an example's outputs
        self.dtype = jnp.result_type(*(part.dtype for part in parts.values()))
        stages = self.kinds.blocks
        self.wire = max(features(parts, packing.flow(stage)) for stage in stages)  # what flows from stage to stage
        self.trace = max(features(parts, stage.regions) for stage in stages)  # what a stage must remember
        self.sent = max(features(parts, [e.target for e in stage.wiring.edges]) for stage in stages)  # over all edges
        self.handed = max(features(parts, {e.target for e in stage.handed}) for stage in stages)  # to the stage below

    def run(self, own: Rows, batches: Batches) -> tuple[Rows, Array, Array]:
        """(the stage's new rows, outputs [K, b, ...], total discrepancy of each batch, summed over examples).

        The pipeline is filled once. From then on a batch takes as many ticks as it has microbatches, and those below
        the last stage are at work on the next batch already when the update comes: with weights that it will change.
        """
        count, ahead = self.microbatches, self.depth - 1
        images = self._parts(self._on_stages(batches.arrays[self.input]))
        arriving = self._varying(jnp.zeros((len(images[0]), self.wire), self.dtype))
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
            leaving, trace = self.kinds.switch(self._climb, mine, images[number], arriving)
            return leaving, Record(arriving, trace, leaving)

        return self._flow(visit, arriving, first, ticks, len(images))

    def _climb(self, block: Block, k: int, own: Rows, image: Array, arriving: Array) -> tuple[Array, Array]:
        """A stage's forward pass of a microbatch: (what leaves it, every h), both flat."""
        passed = forward_pass.run(self.micro, block, self.layout.tree(k, own).held, self._entry(block, image, arriving))
        trace = [passed.h[name] for name in block.regions]
        return self._on_wire(forward_pass.leaving(block, passed)), beside(trace, self.trace, self.dtype)

    def _on_wire(self, flow: Flow) -> Array:
        """What leaves a stage, flat."""
        return beside([array for array in flow if array is not None], self.wire, self.dtype)

    def _entry(self, block: Block, image: Array, arriving: Array) -> Flow:
        """What enters a stage, in its own shapes."""
        if block.entry == INPUT:
            return forward_pass.bottom(self.micro, image)
        names = [block.entry, *([OUTPUT] if self.micro.shares.apart else [])]
        return Flow(*apart(arriving, [self.micro.parts[name] for name in names]))

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
            own_errors, handed = self.kinds.switch(self._hand, self._mine(own), seen)
            downwards = [(i + 1, i) for i in range(self.depth - 1)]
            seen = seen._replace(own=own_errors, from_above=lax.ppermute(handed, 'stage', downwards))
        sent, missed = self.kinds.switch(self._send, self._mine(own), seen)
        # Now, since after learning every stage would wait here for the slowest.
        missed = lax.psum(missed, (*self.shared, 'stage'))
        mirroring = self._mirror(own, batch, outputs, after=missed)
        known: Any = (seen, sent, mirroring)
        if self.shared:
            rows = self.kinds.switch(self._learn_rows, self._mine(own), *known)
            return self.kinds.in_place(self._advance_rows, own, lax.psum(rows, self.shared)), outputs, missed

        def learn(block: Block, k: int, own: Rows, *known: Any) -> Rows:
            own, grads = apart_in_time(own, self._learn(block, k, own, *known))
            return self._advance(k, own, grads)

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
        size, copies = len(images[0]), len(block_noise.signs(self.micro.mirror))

        def visit(number: Array, arriving: Array) -> tuple[Array, tuple[Array, Array]]:
            start = self.micro.start + number * size
            leaving, guess = self.kinds.switch(self._perturb, mine, images[number], arriving, noises, start)
            return leaving, (leaving[..., : self.output], guess)

        # Nobody reads what arrives for the first tick. That it needs a sum over stages keeps devices from going on to
        # this flow before they have all added to it: collectives must come in one order everywhere.
        arriving = jnp.full((copies, size, self.wire), self._varying(after), self.dtype)
        ticks = self.depth - 1 + self.microbatches
        _, (leaving, guesses) = self._flow(visit, arriving, 0, ticks, self.microbatches)
        noisy = [self._whole(leaving[self.depth - 1 :, copy]) for copy in range(copies)]
        guess = self._whole(lax.dynamic_slice_in_dim(guesses, self.index, self.microbatches))
        return lax.psum(jnp.where(self.top, block_noise.response(noisy, outputs), 0) - guess, 'stage')

    def _perturb(
        self, block: Block, k: int, own: Rows, image: Array, arriving: Array, noises: Sequence[Noises], start: Array
    ) -> tuple[Array, Array]:
        """A stage's noisy passes of a microbatch: (what leaves it, what its synapses predict of the response)."""
        at, held, noise = self.micro._replace(start=start), self.layout.tree(k, own).held, noises[k].outer
        passes = zip(arriving, block_noise.signs(at.mirror), strict=True)
        leaving = [
            block_noise.respond(at, block, held, self._entry(block, image, one), noise, sign) for one, sign in passes
        ]
        like = widen(self._varying(jnp.zeros(at.parts[OUTPUT].shape, at.parts[OUTPUT].dtype)))
        guess = block_noise.guess(at, block, held, noise, like)
        return jnp.stack([self._on_wire(flow) for flow in leaving]), guess

    def _hand(self, block: Block, k: int, own: Rows, seen: Seen) -> tuple[Array, Array]:
        """(displacements of edges that carry own errors; what the stage below gets of them), both flat."""
        held, passed = self.layout.tree(k, own).held, self._passed(block, seen)
        paths = block_update.paths(self.whole, block, held, passed)
        sent = block_update.own_errors(self.whole, block, held, passed, paths, seen.outputs, seen.e)
        down = block_update.handed_down(block, sent)
        return self._flat(_carrying_own(block), sent, seen), self._beside(
            [] if down is None else [down], self.handed, seen
        )

    def _send(self, block: Block, k: int, own: Rows, seen: Seen) -> tuple[Array, Array]:
        """(every edge's displacement of the batch, flat; a stage's part of the total discrepancy)."""
        known = None if seen.own is None else self._displacements(_carrying_own(block), seen.own)
        *_, signals = self._recur(block, k, own, seen, known)
        return self._flat(block.wiring.edges, signals.d, seen), block_update.discrepancy(self.whole, block, signals)

    def _flat(self, edges: Sequence[Edge], d: Mapping[str, Array], seen: Seen) -> Array:
        """Displacements of a stage's edges, flat."""
        return self._beside([d[edge.name] for edge in edges], self.sent, seen)

    def _beside(self, arrays: Sequence[Array], width: int, seen: Seen) -> Array:
        nothing = seen.e.reshape(len(seen.e), -1)[:, :0]  # a stage may hold the readout alone
        return beside([nothing, *arrays], width, nothing.dtype)

    def _displacements(self, edges: Sequence[Edge], flat: Array) -> dict[str, Array]:
        """{edge name: its displacement}: the inverse of `_flat`."""
        d = apart(flat, [self.whole.parts[edge.target]._replace(dtype=flat.dtype) for edge in edges])
        return {edge.name: own for edge, own in zip(edges, d, strict=True)}

    def _learn(self, block: Block, k: int, own: Rows, seen: Seen, sent: Array, mirroring: Any) -> Weights:
        """A stage's gradients."""
        known = self._displacements(block.wiring.edges, sent)
        held, passed, paths, signals = self._recur(block, k, own, seen, known)
        if mirroring is not None:
            mirroring = mirroring._replace(noise=mirroring.noise[k])
        return block_update.learn(self.whole, block, held, passed, paths, signals, mirroring)

    def _recur(
        self, block: Block, k: int, own: Rows, seen: Seen, known: Mapping[str, Array] | None = None
    ) -> tuple[Held, Passed, dict[str, Along], Signals]:
        """The recursion within a stage, and what it goes by; known: edge name -> its displacement, where that is."""
        held, passed = self.layout.tree(k, own).held, self._passed(block, seen)
        paths = block_update.paths(self.whole, block, held, passed)
        last, from_above = self.whole.parts[block.regions[-1]], None
        if seen.from_above is not None and last.phi is not None:
            (from_above,) = apart(seen.from_above, [last._replace(dtype=seen.e.dtype)])
        at = self.whole, block, held, passed, paths, seen.outputs, seen.e
        return held, passed, paths, block_update.spread(*at, known, from_above)

    def _learn_rows(self, block: Block, k: int, *known: Any) -> Rows:
        """A stage's gradients in a shape that is the same for all."""
        return self.updates.flat(self._learn(block, k, *known), jax.tree.map(self._varying, self.updates.empty()))

    def _passed(self, block: Block, seen: Seen) -> Passed:
        """What passed a stage, of the whole batch."""
        parts = [self.whole.parts[name] for name in block.regions]
        h = dict(zip(block.regions, apart(seen.trace, parts), strict=True))
        z = {part.name: h[part.name] if part.phi is None else part.phi(h[part.name]) for part in parts}
        return Passed(h, {**forward_pass.entering(block, self._entry(block, seen.x, seen.entry)), **z}, {})

    def _advance(self, k: int, own: Rows, grads: Weights) -> Rows:
        """A stage's rows after the optimizer's step."""
        before = self.layout.tree(k, own)
        after = advance(self.optimizer, before, rescale(grads, self.whole.options), {})
        return self.layout.flat(after, own)

    def _advance_rows(self, block: Block, k: int, own: Rows, grads: Rows) -> Rows:
        """The same, by what `_learn_rows` gave."""
        del block
        return self._advance(k, own, self.updates.tree(k, grads))


def _carrying_own(block: Block) -> list[Edge]:
    """The edges of a block that carry own errors, to the block below or within."""
    return [edge for edge in block.wiring.edges if edge.carries is Carries.OWN]
