"""The streaming update: activation memory that does not grow with depth, for one more forward pass.

Backprop must keep what its backward sweep will need. Here a block needs nothing from above but e_L: pass 1
computes it and stores nothing, pass 2 runs forward again and updates each block in place as it goes. The numbers are
those of the plain step. (The rule `Mirror` adds its noisy passes, which store nothing either.) Where blocks hand own
errors down, each waits for the one above: pass 2 then keeps the activities of one block more.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rlra_jax.compiler import computed_anew, reads_before_writes
from rlra_jax.edges import Wiring
from rlra_jax.learners.rec_lra import update_fn
from rlra_jax.loss import loss_and_error, softmax_cross_entropy, widen
from rlra_jax.model.checked import checked
from rlra_jax.model.net import Net
from rlra_jax.parallel import block_noise, block_update, forward_pass
from rlra_jax.parallel.block_noise import Mirroring, Noises, Residual
from rlra_jax.parallel.blocks import Block, Run, over, put, take
from rlra_jax.parallel.dissect import Flat
from rlra_jax.parallel.forward_pass import Flow, Held, Passed
from rlra_jax.parallel.optimizer_state import check_optimizer
from rlra_jax.parallel.packing import PackedState, PackedStep, Packing, advance
from rlra_jax.parallel.setting import setting
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.start import draw_synapses
from rlra_jax.recursion.update import add_noise, rescale
from rlra_jax.rules import noisy_passes
from rlra_jax.rules.noisy_passes import Noise
from rlra_jax.train_step import TrainState
from rlra_jax.types import Array, Aux, Batch, Learner, Loss, State, Variables, Weights
from rlra_jax.validate import check_batch, check_key
from rlra_jax.wiring.levels import settled

_DEFAULTS = Options()
Slot = Any  # a NamedTuple with a field `held`; of a run, its leaves are stacked
Visit = Callable[[Slot, Weights, Flat], Slot]  # (a block's slot, gradients, renewed statistics) -> its new slot


class _Emitted(NamedTuple):
    held: Held
    grads: Weights


class _Heard(NamedTuple):
    """What comes from the output, the same for all blocks."""

    outputs: Array  # [B, ...]
    e: Array  # [B, ...] error neurons
    residual: Residual


class _Waiting(NamedTuple):
    """What a block that has run will learn from."""

    passed: Passed
    own: Mapping[str, Array] | None = None  # edge name -> displacement, of edges that carry own errors


def stream_step(
    net: Net,
    wiring: Wiring | Callable[[Net], Wiring],
    optimizer: optax.GradientTransformation,
    options: Options = _DEFAULTS,
    *,
    loss: Loss = softmax_cross_entropy,
    synapse_std: float = 0.05,
    allow: Collection[str] = (),
) -> PackedStep:
    """A rec-LRA training step that streams. Jit `update` with its state donated: blocks are then updated in place.

    Args:
      net: what `regions` returned, of a linen module.
      wiring: its error pathways, or a function of the net that makes them.
      optimizer: of the weights; one that needs no gradients of other blocks.
      options: hyper-parameters.
      loss: (outputs, batch) -> `[B]`.
      synapse_std: standard deviation of the initial straight synapses.
      allow: as for `update_fn`.

    Raises:
      ValueError: the wiring does not let the model be split, naming the edges and activities that reach across; the
        model is of nnx, has several outputs, Sites in a loop that JAX traces once, or parameters of several regions; or
        the optimizer needs the whole tree or the loss.
    """
    wiring = settled(wiring, net)
    learner = update_fn(net, wiring, options, loss=loss, synapse_std=synapse_std, allow=allow)
    packing = Packing(net, wiring, options=options)
    check_optimizer(optimizer, packing.runs, packing.weights)

    def init(key: Array, variables: Variables | None = None) -> PackedState:
        weights, state = learner.init(key, variables)
        return pack(TrainState(weights, state, optimizer.init(weights)))

    def update(state: PackedState, batch: Batch, key: Array) -> tuple[PackedState, Aux]:
        check_batch(batch, net.example)
        check_key(key)
        stream = _Stream(packing, options, loss, state.memory['step'], batch, key)
        runs, aux = stream.run(state.runs, functools.partial(advance, optimizer))
        return PackedState(runs, _next(state.memory)), aux

    def pack(state: TrainState) -> PackedState:
        return packing.pack(state, optimizer)

    def unpack(state: PackedState) -> TrainState:
        return packing.unpack(state, optimizer)

    return PackedStep(init, update, pack, unpack)


def stream_update_fn(
    net: Net,
    wiring: Wiring | Callable[[Net], Wiring],
    options: Options = _DEFAULTS,
    *,
    loss: Loss = softmax_cross_entropy,
    synapse_std: float = 0.05,
    allow: Collection[str] = (),
) -> Learner:
    """`update_fn`, streamed: emits every block's update instead of applying it.

    Arguments and result are those of `update_fn`. The updates themselves, and stacked copies of the parameters, take
    memory: `stream_step` does without both.

    Raises:
      ValueError: as `update_fn`, or what `stream_step` says of model and wiring.
    """
    wiring = settled(wiring, net)
    learner = update_fn(net, wiring, options, loss=loss, synapse_std=synapse_std, allow=allow)
    packing = Packing(net, wiring, options=options)

    def draw(key: Array, variables: Variables):
        return draw_synapses(key, wiring, net.regions, variables, synapse_std)

    def update(weights: Weights, state: State, batch: Batch, key: Array):
        held = packing.pack_held(weights, state.collections)
        slots = tuple(_Emitted(h, {'params': h.params, 'synapses': h.synapses}) for h in held)  # to be written over

        def visit(slot: _Emitted, grads: Weights, stats: Flat) -> _Emitted:
            return _Emitted(slot.held._replace(stats={**slot.held.stats, **stats}), grads)

        stream = _Stream(packing, options, loss, state.memory['step'], batch, key)
        slots, aux = stream.run(slots, visit)
        grads = packing.weights_of([s.grads['params'] for s in slots], [s.grads['synapses'] for s in slots])
        return grads, State(packing.collections_of([s.held for s in slots]), _next(state.memory)), aux

    return dataclasses.replace(learner, update=checked(update, net, draw))


def _next(memory: Mapping[str, Array]) -> dict[str, Array]:
    return {**memory, 'step': memory['step'] + 1}


class _Stream:
    """One step's passes over the blocks."""

    def __init__(
        self,
        packing: Packing,
        options: Options,
        loss: Loss,
        step: Array,
        batch: Batch,
        key: Array,
    ):
        key_input, _, key_mirror = jax.random.split(key, 3)
        self.batch, self.loss = add_noise(batch, options.input_noise, key_input), loss
        self.x = self.batch[packing.input]
        self.at = setting(packing.parts_for(self.x, key), options, packing.wiring, key, len(self.x))
        self.runs, self.wiring = packing.runs, packing.wiring
        self.active = step % self.at.mirror.every == 0
        self.noise = block_noise.noises(self.runs, packing.wiring, self.at.parts, key_mirror)

    def run(self, slots: tuple[Slot, ...], visit: Visit) -> tuple[tuple[Slot, ...], Aux]:
        """Both passes over all runs."""
        held = [slot.held for slot in slots]
        outputs = self._outputs(held)
        residual = self._residual(held, outputs)
        loss, e = loss_and_error(self.loss, outputs, self.batch)
        x, *heard = computed_anew((self.x, outputs, e, residual))  # pass 2 keeps nothing of pass 1
        climb = self._climb_handing_down if self.wiring.own else self._climb
        after, discrepancy = climb(slots, forward_pass.bottom(self.at, x), _Heard(*heard), visit)
        return after, Aux(loss, widen(outputs), discrepancy / len(self.x))

    def _climb(
        self, slots: tuple[Slot, ...], flow: Flow, heard: _Heard, visit: Visit
    ) -> tuple[tuple[Slot, ...], Array]:
        """Pass 2: (the new slots, total discrepancy summed over examples)."""

        def rise(run: Run, noise: Noises, carry: Any, i: Array) -> Any:
            flow, discrepancy, slots = carry
            passed = forward_pass.run(self.at, run[0], take(slots, i).held, flow)
            slots, misses = self._learn(run, noise, slots, i, _Waiting(passed), heard, None, visit)
            return forward_pass.leaving(run[0], passed), discrepancy + misses, slots

        discrepancy = jnp.zeros((), heard.e.dtype)
        after = []
        for run, slot, noise in zip(self.runs, slots, self.noise, strict=True):
            body = functools.partial(rise, run, noise)
            flow, discrepancy, slot = over(run, body, (flow, discrepancy, slot), jnp.arange(len(run)))
            after.append(slot)
        return tuple(after), discrepancy

    def _climb_handing_down(
        self, slots: tuple[Slot, ...], flow: Flow, heard: _Heard, visit: Visit
    ) -> tuple[tuple[Slot, ...], Array]:
        """The same, where a block learns when the one above has handed its own errors down."""

        def rise(run: Run, slots: Slot, flow: Flow, i: Array | int) -> tuple[Flow, _Waiting, Array | None]:
            block, held = run[0], take(slots, i).held
            passed = forward_pass.run(self.at, block, held, flow)
            paths = forward_pass.paths(self.at, block, held, passed)
            own = block_update.own_errors(self.at, block, held, passed, paths, heard.outputs, heard.e)
            return forward_pass.leaving(block, passed), _Waiting(passed, own), block_update.handed_down(block, own)

        def step(run: Run, noise: Noises, carry: Any, i: Array) -> tuple[Any, None]:
            flow, discrepancy, slots, below = carry
            flow, here, handed = rise(run, slots, flow, i)
            slots, misses = self._learn(run, noise, slots, i - 1, below, heard, handed, visit)
            return (flow, discrepancy + misses, slots, here), None

        def learn_highest(k: int, below: _Waiting, handed: Array | None) -> Array:
            run = self.runs[k]
            after[k], misses = self._learn(run, self.noise[k], after[k], len(run) - 1, below, heard, handed, visit)
            return misses

        after: list[Slot] = list(slots)
        below: Any = None  # what the block below the next waits with
        discrepancy = jnp.zeros((), heard.e.dtype)
        for k, run in enumerate(self.runs):
            flow, here, handed = rise(run, after[k], flow, 0)
            if below is not None:
                discrepancy += learn_highest(k - 1, below, handed)
            carry = flow, discrepancy, after[k], here
            if len(run) > 1:  # what enters has the shape of what leaves
                carry, _ = lax.scan(functools.partial(step, run, self.noise[k]), carry, jnp.arange(1, len(run)))
            flow, discrepancy, after[k], below = carry
        discrepancy += learn_highest(len(self.runs) - 1, below, None)
        return tuple(after), discrepancy

    def _learn(
        self,
        run: Run,
        noise: Noises,
        slots: Slot,
        i: Array | int,
        waiting: _Waiting,
        heard: _Heard,
        from_above: Array | None,
        visit: Visit,
    ) -> tuple[Slot, Array]:
        """(the slots with that of block i renewed, its part of the total discrepancy)."""
        block, slot, passed = run[0], take(slots, i), waiting.passed
        held = slot.held
        mirroring = Mirroring(self.active, heard.residual, take(noise, i))
        paths = forward_pass.paths(self.at, block, held, passed)
        at = self.at, block, held, passed, paths
        signals = block_update.spread(*at, heard.outputs, heard.e, waiting.own, from_above)
        misses = block_update.discrepancy(self.at, block, signals)
        grads = block_update.learn(*at, signals, mirroring)
        slot = reads_before_writes(misses, lambda: visit(slot, rescale(grads, self.at.options), passed.stats), slot)
        return put(slots, i, slot), misses

    def _outputs(self, held: Sequence[Held]) -> Array:
        """Pass 1."""
        flow = forward_pass.bottom(self.at, self.x)
        for run, stacked in zip(self.runs, held, strict=True):
            flow = over(run, functools.partial(self._leaving, run[0]), flow, stacked)
        return flow.z

    def _leaving(self, block: Block, flow: Flow, held: Held) -> Flow:
        return forward_pass.leaving(block, forward_pass.run(self.at, block, held, flow))

    def _residual(self, held: Sequence[Held], outputs: Array) -> Residual:
        """What the synapses from the output fail to predict of the outputs' response to noise at every region."""
        clean = widen(outputs)

        def body(block: Block, carry: Any, one: tuple[Held, Mapping[str, Noise]]):
            flows, guess = carry
            held, noise = one
            flows, own = block_noise.perturb(self.at, block, held, flows, noise, clean)
            return flows, guess + own

        def estimate() -> Array:
            carry = ([forward_pass.bottom(self.at, self.x) for _ in self.at.signs], jnp.zeros_like(clean))
            for run, stacked, noise in zip(self.runs, held, self.noise, strict=True):
                carry = over(run, functools.partial(body, run[0]), carry, (stacked, noise.outer))
            flows, guess = carry
            return block_noise.response(self.at, [flow.z for flow in flows], clean) - guess

        inputs = block_noise.outer_inputs(self.wiring, self.at.parts)
        residual = lax.cond(self.active, estimate, lambda: jnp.zeros_like(clean)) if inputs else jnp.zeros_like(clean)
        return Residual(residual, noisy_passes.curvature(inputs, len(clean), self.at.mirror.std))
