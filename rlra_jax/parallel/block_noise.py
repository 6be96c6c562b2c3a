"""How a block's synapses learn from noise: in the pass that runs through all blocks, and in those within it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.edges import Carries, Edge, Link, Wiring
from rlra_jax.loss import widen
from rlra_jax.parallel import forward_pass
from rlra_jax.parallel.blocks import Block, Run, to_flat
from rlra_jax.parallel.dissect import Part
from rlra_jax.parallel.forward_pass import Flow, Held, Passed
from rlra_jax.parallel.setting import Setting
from rlra_jax.parallel.shares import SUM
from rlra_jax.rules import noisy_passes
from rlra_jax.rules.noisy_passes import Noise
from rlra_jax.synapses.straight import Straight
from rlra_jax.types import Array, PyTree


class Residual(NamedTuple):
    """What noisy passes find at the output, the same for all blocks."""

    value: Array  # [B, ...] the outputs' response to noise, less what the synapses predict
    scale: Array | float  # the curvature to divide by


class Noises(NamedTuple):
    """{target: its noise} of each noisy pass; of a run of blocks, by the names of the first, with keys `[blocks]`."""

    outer: Mapping[str, Noise]  # in the pass that runs through all blocks
    inner: tuple[Mapping[str, Noise], ...]  # in those within blocks


class Mirroring(NamedTuple):
    """What a block needs to mirror."""

    active: Array  # bool []: whether this step mirrors
    residual: Residual
    noise: Noises


def draw(at: Setting, noise: Mapping[str, Noise], name: str) -> Array:
    """Draws xi of a region: of a part of the batch, that part of the whole batch's."""
    examples, *rest = at.parts[name].shape
    dtype = jnp.promote_types(at.parts[name].dtype, jnp.float32)
    xi = noisy_passes.draw(noise[name], (at.size, *rest), dtype, at.mirror.std)
    return jax.lax.dynamic_slice_in_dim(xi, at.start, examples)


def served(block: Block, noise: Mapping[str, Noise], *, outer: bool) -> list[Edge]:
    """The block's edges that learn in the pass of this noise; outer: whether it runs through all blocks."""
    heard = [edge for edge in block.wiring.edges if edge.carries is not Carries.REST]
    afar = {
        target: noisy_passes.from_afar(block.wiring, [edge for edge in heard if edge.target == target])
        for target in noise
    }
    noisy = [edge for edge in block.wiring.edges if edge.rule.noisy and edge.target in noise]
    return [edge for edge in noisy if (edge.carries is Carries.REST or afar[edge.target]) == outer]


def perturb(
    at: Setting,
    block: Block,
    held: Held,
    flows: Sequence[Flow],
    noise: Mapping[str, Noise],
    like: Array,
) -> tuple[list[Flow], Array]:
    """A block in the passes that run through all of them.

    Args:
      at: the step.
      block: which it is.
      held: its arrays.
      flows: what enters it in each pass, of `Setting.signs`.
      noise: {target: its noise}.
      like: an array like the outputs `[B, ...]`.

    Returns:
      (what leaves it in each, what its synapses predict of the outputs' response to its noise).
    """

    def leave(sign: float, name: str, z: Array) -> Array:
        return z + (sign * draw(at, noise, name)).astype(z.dtype) if sign and name in noise else z

    passed = [
        forward_pass.run(at, block, held, flow, functools.partial(leave, sign))
        for flow, sign in zip(flows, at.signs, strict=True)
    ]
    edges = served(block, noise, outer=True)
    seen = [_outer(at, e).see(held.synapses[e.name], {e.name: draw(at, noise, e.target)}) for e in edges]
    if beside := noisy_passes.beside(block.wiring, edges):
        (clean,) = (own for own, sign in zip(passed, at.signs, strict=True) if not sign)
        E = {name: E for level in at.by_level(block, held.synapses) for name, E in level.items()}
        ways = forward_pass.paths(at, block, held, clean)
        seen += [ways[e.source].see(E[e.synapse], {e.name: draw(at, noise, e.target)}) for e in beside]
    return [forward_pass.leaving(block, own) for own in passed], sum(seen, start=jnp.zeros_like(like))


def response(at: Setting, found: Sequence[Array], clean: Array) -> Array:
    """How the outputs `[B, ...]` move with the noise: from those that each pass found, of `Setting.signs`."""
    up, *down = (widen(outputs) for outputs, sign in zip(found, at.signs, strict=True) if sign)
    return (up - down[0]) / 2 if down else up - clean


def outer_inputs(wiring: Wiring, parts: Mapping[str, Part]) -> float:
    """How many noise inputs each logit has in the pass that runs through all blocks; for `noisy_passes.curvature`."""
    outer, *_ = noisy_passes.group(wiring, list(parts))
    return sum(Straight(e, parts[e.source].shape, parts[e.target].shape).inputs(None) for e in outer)


def _outer(at: Setting, edge: Edge) -> Straight:
    """An edge from the output that learns in the pass that runs through all blocks."""
    return Straight(edge, at.parts[edge.source].shape, at.parts[edge.target].shape)


def mirror(
    at: Setting,
    block: Block,
    held: Held,
    passed: Passed,
    links: Sequence[Mapping[str, Link]],
    mirroring: Mirroring,
) -> dict[str, PyTree]:
    """Gradients of the block's mirrored synapses, as `blocks.to_flat` names them."""
    residual, scale = mirroring.residual
    grads: dict[str, PyTree] = {}
    for e in served(block, mirroring.noise.outer, outer=True):
        xi = {e.name: draw(at, mirroring.noise.outer, e.target)}
        grads[e.name] = noisy_passes.learn(_outer(at, e), held.synapses[e.name], residual, xi, scale)
    E = {name: E for level in at.by_level(block, held.synapses) for name, E in level.items()}

    def run(leave: Callable[..., Array], given: Mapping[str, Any]) -> dict[str, Array]:
        flow = Flow(passed.z[block.entry], passed.z.get(SUM))
        return forward_pass.run(at, block, held, flow, lambda name, z: leave(name, z, given[name])).h

    for noise in filter(None, mirroring.noise.inner):
        edges = served(block, noise, outer=False)
        own = {name: link for level in links for name, link in level.items() if not set(edges).isdisjoint(link.edges)}
        found = noisy_passes.run_pass(
            edges,
            {target: draw(at, noise, target) for target in noise},
            own,
            E,
            run,
            {name: widen(value) for name, value in passed.h.items()},
            at.phi(block),
            noisy_passes.stopping(block.wiring, edges),
            rule=at.mirror,
            size=at.size,
        )
        grads = noisy_passes.add_up(grads, to_flat([found], 'edges'))
    return grads


def noises(runs: Sequence[Run], wiring: Wiring, parts: Mapping[str, Part], key: Array) -> list[Noises]:
    """The noise of each run's blocks."""
    shapes = {name: part.shape for name, part in parts.items()}
    passes = [noise for _, noise in noisy_passes.passes(wiring, shapes, key)]
    return [Noises(outer, tuple(inner)) for outer, *inner in ([_pack(run, noise) for noise in passes] for run in runs)]


def _pack(run: Run, noise: Mapping[str, Noise]) -> dict[str, Noise]:
    return {
        names[0]: jax.tree.map(lambda *own: jnp.stack(own), *(noise[name] for name in names))
        for names in zip(*(block.regions for block in run), strict=True)
        if names[0] in noise
    }
