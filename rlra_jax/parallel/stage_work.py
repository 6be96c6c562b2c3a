"""What a stage computes by itself, from flat arrays to flat arrays, which are alike for stages of unlike kinds.

Methods take a block that stands for the stage's kind, the number of that kind, and the stage's own rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlra_jax.edges import Carries, Edge
from rlra_jax.loss import widen
from rlra_jax.model.capture import OUTPUT
from rlra_jax.parallel import block_noise, block_update, forward_pass
from rlra_jax.parallel.block_noise import Noises
from rlra_jax.parallel.blocks import Block
from rlra_jax.parallel.dissect import INPUT
from rlra_jax.parallel.forward_pass import Flow, Held, Passed
from rlra_jax.parallel.layout import Layout, Rows, apart, beside, features
from rlra_jax.parallel.packing import advance
from rlra_jax.parallel.setting import Setting
from rlra_jax.recursion.propagate import Signals
from rlra_jax.recursion.update import rescale
from rlra_jax.synapses.path import Along
from rlra_jax.types import Array, Weights


class Seen(NamedTuple):
    """What a stage knows of a batch once its outputs have come."""

    x: Array  # [b, ...]
    entry: Array  # [b, width] what entered it, flat
    trace: Array  # [b, width] every h, flat
    outputs: Array  # [b, ...]
    e: Array  # [b, ...] error neurons of the outputs
    own: Array | None = None  # [b, width] the displacements of edges that have sent before, flat; None: there are none
    from_above: Array | None = None  # [b, width] what the stage above handed down, flat


class StageWork:
    """What stages do.

    Args:
      blocks: a stage of each kind.
      flows: the names of what leaves each.
      layout: of the stages' rows.
      optimizer: of the weights.
      micro: the step, for a microbatch.
      whole: the same, for a device's share of the batch.
      varying: makes of what is alike everywhere each device's own.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        flows: Sequence[Sequence[str]],
        layout: Layout,
        optimizer: optax.GradientTransformation,
        micro: Setting,
        whole: Setting,
        varying: Callable[[Array], Array],
    ):
        self.layout, self.optimizer, self.micro, self.whole, self.varying = layout, optimizer, micro, whole, varying
        self.updates = Layout([{'params': own.held.params, 'synapses': own.held.synapses} for own in layout.trees])
        parts = micro.parts
        self.dtype = jnp.result_type(*(dtype for part in parts.values() for dtype in (part.dtype, part.z_dtype)))
        self.wire = max(features(parts, flow) for flow in flows)  # what flows from stage to stage
        self.trace = max(features(parts, block.regions) for block in blocks)  # what a stage must remember
        self.sent = max(features(parts, [e.target for e in block.wiring.edges]) for block in blocks)  # over all edges
        self.handed = max(features(parts, {e.target for e in block.handed}) for block in blocks)  # to the stage below

    def climb(self, block: Block, k: int, own: Rows, image: Array, arriving: Array) -> tuple[Array, Array]:
        """A stage's forward pass of a microbatch: (what leaves it, every h), both flat."""
        passed = forward_pass.run(self.micro, block, self.layout.tree(k, own).held, self._entry(block, image, arriving))
        trace = [passed.h[name] for name in block.regions]
        return self._on_wire(forward_pass.leaving(block, passed)), beside(trace, self.trace, self.dtype)

    def perturb(
        self, block: Block, k: int, own: Rows, image: Array, arriving: Array, noises: Sequence[Noises], start: Array
    ) -> tuple[Array, Array]:
        """A stage's noisy passes of a microbatch: (what leaves it, what its synapses predict of the response)."""
        at, held = self.micro._replace(start=start), self.layout.tree(k, own).held
        flows = [self._entry(block, image, one) for one in arriving]
        like = widen(self.varying(jnp.zeros(at.parts[OUTPUT].shape, at.parts[OUTPUT].dtype)))
        leaving, guess = block_noise.perturb(at, block, held, flows, noises[k].outer, like)
        return jnp.stack([self._on_wire(flow) for flow in leaving]), guess

    def hand(self, block: Block, k: int, own: Rows, seen: Seen) -> tuple[Array, Array]:
        """(displacements of the edges of `_before`; what the stage below gets of them), both flat."""
        held, passed = self.layout.tree(k, own).held, self._passed(block, seen)
        paths = forward_pass.paths(self.whole, block, held, passed)
        sent = block_update.own_errors(self.whole, block, held, passed, paths, seen.outputs, seen.e)
        down = block_update.handed_down(block, sent)
        handed = self._beside([] if down is None else [down], self.handed, seen)
        return self._flat(_before(block), sent, seen), handed

    def send(self, block: Block, k: int, own: Rows, seen: Seen) -> tuple[Array, Array]:
        """(every edge's displacement of the batch, flat; a stage's part of the total discrepancy)."""
        known = None if seen.own is None else self._displacements(_before(block), seen.own)
        *_, signals = self._recur(block, k, own, seen, known)
        return self._flat(block.wiring.edges, signals.d, seen), block_update.discrepancy(self.whole, block, signals)

    def learn(self, block: Block, k: int, own: Rows, seen: Seen, sent: Array, mirroring: Any) -> Weights:
        """A stage's gradients."""
        known = self._displacements(block.wiring.edges, sent)
        held, passed, paths, signals = self._recur(block, k, own, seen, known)
        if mirroring is not None:
            mirroring = mirroring._replace(noise=mirroring.noise[k])
        return block_update.learn(self.whole, block, held, passed, paths, signals, mirroring)

    def learn_rows(self, block: Block, k: int, *known: Any) -> Rows:
        """A stage's gradients in a shape that is the same for all."""
        return self.updates.flat(self.learn(block, k, *known), jax.tree.map(self.varying, self.updates.empty()))

    def advance(self, k: int, own: Rows, grads: Weights) -> Rows:
        """A stage's rows after the optimizer's step."""
        before = self.layout.tree(k, own)
        after = advance(self.optimizer, before, rescale(grads, self.whole.options), {})
        return self.layout.flat(after, own)

    def advance_rows(self, block: Block, k: int, own: Rows, grads: Rows) -> Rows:
        """The same, by what `learn_rows` gave."""
        del block
        return self.advance(k, own, self.updates.tree(k, grads))

    def _recur(
        self, block: Block, k: int, own: Rows, seen: Seen, known: Mapping[str, Array] | None = None
    ) -> tuple[Held, Passed, dict[str, Along], Signals]:
        """The recursion within a stage, and what it goes by; known: edge name -> its displacement, where that is."""
        held, passed = self.layout.tree(k, own).held, self._passed(block, seen)
        paths = forward_pass.paths(self.whole, block, held, passed)
        last, from_above = self.whole.parts[block.regions[-1]], None
        fits = features(self.whole.parts, [last.name]) <= self.handed  # what is wider hears nothing from above
        if seen.from_above is not None and fits:
            (from_above,) = apart(seen.from_above, [last._replace(dtype=seen.e.dtype)])
        at = self.whole, block, held, passed, paths, seen.outputs, seen.e
        return held, passed, paths, block_update.spread(*at, known, from_above)

    def _passed(self, block: Block, seen: Seen) -> Passed:
        """What passed a stage, of the whole batch."""
        parts = [self.whole.parts[name] for name in block.regions]
        h = dict(zip(block.regions, apart(seen.trace, parts), strict=True))
        z = {part.name: h[part.name] if part.phi is None else part.phi(h[part.name]) for part in parts}
        return Passed(h, {**forward_pass.entering(block, self._entry(block, seen.x, seen.entry)), **z}, {})

    def _entry(self, block: Block, image: Array, arriving: Array) -> Flow:
        """What enters a stage, in its own shapes."""
        if block.entry == INPUT:
            return forward_pass.bottom(self.micro, image)
        names = [block.entry, *([OUTPUT] if self.micro.shares.apart else [])]
        parts = [self.micro.parts[name] for name in names]
        return Flow(*apart(arriving, [part._replace(dtype=part.z_dtype) for part in parts]))

    def _on_wire(self, flow: Flow) -> Array:
        """What leaves a stage, flat."""
        return beside([array for array in flow if array is not None], self.wire, self.dtype)

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


def _before(block: Block) -> list[Edge]:
    """The edges of a block that have sent once own errors are known: those that carry them, or that only they hear."""
    unheard = block.wiring.unheard
    return [edge for edge in block.wiring.edges if edge.carries is Carries.OWN or edge in unheard]
