"""The streaming update: activation memory that does not grow with depth, for one more forward pass.

Backprop must keep what its backward sweep will need. Here a block needs nothing from above but the logits: pass 1
computes them and stores nothing, pass 2 runs forward again and updates each block in place as it goes. The numbers are
those of the plain step. (The rule `Mirror` adds its noisy passes, which store nothing either.)
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from rlra_jax.edges import Wiring
from rlra_jax.loss import score, widen
from rlra_jax.model.inputs import checked
from rlra_jax.parallel import local
from rlra_jax.parallel.blocks import Block, over, put, take
from rlra_jax.parallel.dissect import Flat
from rlra_jax.parallel.local import Held, Mirroring, Noises, Residual
from rlra_jax.parallel.packing import PackedState, PackedStep, Packing, advance
from rlra_jax.recursion.feedback import feedback_like, init_feedback
from rlra_jax.recursion.options import Options, make_options
from rlra_jax.recursion.update import UpdateFn, add_noise, rescale
from rlra_jax.rules import noisy_passes
from rlra_jax.rules.noisy_passes import Noise
from rlra_jax.train_step import SYNAPSE_SGD, TrainState, first_state
from rlra_jax.types import Array, Aux, Batch, Feedback, LocalGrads, Variables
from rlra_jax.validate import check_batch, check_key

Slot = Any  # a NamedTuple with a field `held`; of a run, its leaves are stacked
Visit = Callable[[Slot, LocalGrads, Flat], Slot]  # (a block's slot, gradients, renewed statistics) -> its new slot


class _Emitted(NamedTuple):
    held: Held
    grads: LocalGrads


def stream_step(
    model: nn.Module,
    wiring: Wiring,
    variables: Variables,
    x: Array,
    optimizer: optax.GradientTransformation,
    synapse_optimizer: optax.GradientTransformation = SYNAPSE_SGD,
    *,
    synapse_std: float = 0.05,
    train_kwargs: Mapping[str, Any] | None = None,
    **hyper_parameters: Any,
) -> PackedStep:
    """A rec-LRA training step that streams. Jit `update` with its state donated: blocks are then updated in place.

    Args:
      model: a linen module whose activations are Sites.
      wiring: its error pathways.
      variables: what `model.init` returned, or its shapes.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      optimizer: of the parameters; one that needs no gradients of other blocks.
      synapse_optimizer: of the error synapses, the same.
      synapse_std: standard deviation of the initial synapses.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      **hyper_parameters: those of `options.Options`.

    Raises:
      ValueError: the wiring does not let the model be split, naming the edges and activities that reach across; or an
        optimizer needs the whole tree.
    """
    options = make_options(**hyper_parameters)
    optimizers = optimizer, synapse_optimizer
    packing = Packing(model, wiring, variables, x, options=options, train_kwargs=train_kwargs)
    packing.check_optimizers(*optimizers)

    def init(key: Array, variables: Variables, batch: Batch) -> PackedState:
        check_batch(batch)
        x = batch['image']
        feedback = init_feedback(key, model, wiring, variables, x, std=synapse_std, train_kwargs=train_kwargs)
        return packing.pack(first_state(variables, feedback, *optimizers))

    def update(state: PackedState, batch: Batch, key: Array) -> tuple[PackedState, Aux]:
        check_batch(batch)
        check_key(key)
        stream = _Stream(packing, options, state.memory['step'], batch, key)
        runs, aux = stream.run(state.runs, functools.partial(advance, optimizers))
        return PackedState(runs, _next(state.memory)), aux

    def unpack(state: PackedState) -> TrainState:
        return packing.unpack(state, *optimizers)

    return PackedStep(init, update, packing.pack, unpack)


def stream_update_fn(
    model: nn.Module, wiring: Wiring, *, train_kwargs: Mapping[str, Any] | None = None, **hyper_parameters: Any
) -> UpdateFn:
    """`update_fn`, streamed: emits every block's update instead of applying it.

    Arguments and result are those of `update_fn`; aux.variables holds the renewed statistics. The updates
    themselves, and stacked copies of the parameters, take memory: `stream_step` does without both.

    Raises:
      ValueError: as `update_fn`; at the first call also, what `stream_step` says of model and wiring.
    """
    options = make_options(**hyper_parameters)

    def update(variables: Variables, feedback: Feedback, batch: Batch, key: Array):
        packing = Packing(model, wiring, variables, batch['image'], options=options, train_kwargs=train_kwargs)
        held = packing.pack_held(variables, feedback.synapses)
        slots = tuple(_Emitted(h, LocalGrads(h.params, h.synapses)) for h in held)  # as good as any to be written over

        def visit(slot: _Emitted, grads: LocalGrads, stats: Flat) -> _Emitted:
            return _Emitted(slot.held._replace(stats={**slot.held.stats, **stats}), grads)

        stream = _Stream(packing, options, feedback.memory['step'], batch, key)
        slots, aux = stream.run(slots, visit)
        params, synapses = zip(*(slot.grads for slot in slots), strict=True)
        grads = LocalGrads(packing.params_of(params), packing.synapses_of(synapses))
        after = packing.variables_of(tuple(slot.held for slot in slots))
        rest = {name: value for name, value in after.items() if name != 'params'}
        return grads, Feedback(feedback.synapses, _next(feedback.memory)), aux._replace(variables=rest)

    return checked(update, model, feedback_like(model, wiring, train_kwargs), train_kwargs)


def _next(memory: Mapping[str, Array]) -> dict[str, Array]:
    return {**memory, 'step': memory['step'] + 1}


class _Stream:
    """One step's passes over the blocks."""

    def __init__(
        self,
        packing: Packing,
        options: Options,
        step: Array,
        batch: Batch,
        key: Array,
    ):
        key_input, _, key_mirror = jax.random.split(key, 3)
        self.x = add_noise(batch['image'], options.input_noise, key_input)
        self.label = batch['label']
        self.at = local.setting(packing.parts_for(self.x, key), options, packing.wiring, key, len(self.label))
        self.runs, self.wiring = packing.runs, packing.wiring
        self.active = step % self.at.mirror.every == 0
        self.noise = local.noises(self.runs, packing.wiring, packing.parts, key_mirror)

    def run(self, slots: tuple[Slot, ...], visit: Visit) -> tuple[tuple[Slot, ...], Aux]:
        """Both passes over all runs."""
        held = [slot.held for slot in slots]
        logits = self._logits(held)
        residual = self._residual(held, logits)
        # Pass 2 must not reuse what pass 1 computed, or it would have to be kept: the barrier hides that they agree.
        z, logits, residual = lax.optimization_barrier((self.x, logits, residual))
        discrepancy = jnp.zeros((), widen(logits).dtype)
        after = []
        for run, slot, noise in zip(self.runs, slots, self.noise, strict=True):
            body = functools.partial(self._visit, run[0], noise, logits, residual, visit)
            z, discrepancy, slot = over(run, body, (z, discrepancy, slot), jnp.arange(len(run)))
            after.append(slot)
        loss, error = score(widen(logits), self.label)
        return tuple(after), Aux(loss, error, widen(logits), {}, discrepancy / len(self.label))

    def _visit(
        self, block: Block, noise: Noises, logits: Array, residual: Residual, visit: Visit, carry: Any, i: Array
    ):
        """One block of pass 2."""
        z, discrepancy, slots = carry
        slot = take(slots, i)
        held = slot.held
        passed = local.forward(self.at, block, held, z)
        mirroring = Mirroring(self.active, residual, take(noise, i))
        paths = local.paths(self.at, block, held, passed)
        signals = local.spread(self.at, block, held, passed, paths, logits, self.label)
        misses = local.discrepancy(self.at, block, signals)
        grads = local.learn(self.at, block, held, passed, paths, signals, mirroring)
        # A sum of squares is not below 0, but the compiler does not know. So all that is read of the block comes before
        # this branch and all that is written comes after it, and no copy of all blocks is needed to write into.
        slot = lax.cond(misses < 0, lambda: slot, lambda: visit(slot, rescale(grads, self.at.options), passed.stats))
        return passed.z[block.regions[-1]], discrepancy + misses, put(slots, i, slot)

    def _logits(self, held: Sequence[Held]) -> Array:
        """Pass 1."""
        z = self.x
        for run, stacked in zip(self.runs, held, strict=True):
            z = over(run, functools.partial(self._leaving, run[0]), z, stacked)
        return z

    def _leaving(self, block: Block, z: Array, held: Held) -> Array:
        return local.forward(self.at, block, held, z).z[block.regions[-1]]

    def _residual(self, held: Sequence[Held], logits: Array) -> Residual:
        """What the synapses from the output fail to predict of the logits' response to noise at every region."""
        clean = widen(logits)
        signs = local.signs(self.at.mirror)

        def body(block: Block, carry: Any, one: tuple[Held, Mapping[str, Noise]]):
            zs, guess = carry
            held, noise = one
            zs = [local.respond(self.at, block, held, z, noise, s) for z, s in zip(zs, signs, strict=True)]
            return zs, guess + local.guess(self.at, block, held, noise, clean)

        def estimate() -> Array:
            carry = ([self.x for _ in signs], jnp.zeros_like(clean))
            for run, stacked, noise in zip(self.runs, held, self.noise, strict=True):
                carry = over(run, functools.partial(body, run[0]), carry, (stacked, noise.outer))
            noisy, guess = carry
            return local.response(noisy, clean) - guess

        inputs = local.outer_inputs(self.wiring, self.at.parts)
        residual = lax.cond(self.active, estimate, lambda: jnp.zeros_like(clean)) if inputs else jnp.zeros_like(clean)
        return Residual(residual, noisy_passes.curvature(inputs, len(clean), self.at.mirror.std))
