"""What a block does by itself: its forward pass, and its update once the output's errors are known."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.compiler import varying_like
from rlra_jax.edges import Edge, Link, Wiring
from rlra_jax.loss import widen
from rlra_jax.parallel.blocks import Block, Run, of_synapses, to_flat
from rlra_jax.parallel.dissect import Flat, Part, values
from rlra_jax.parallel.shares import SUM, Shares
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.propagate import Signals, connect, propagate
from rlra_jax.recursion.targets import total_discrepancy
from rlra_jax.recursion.update import synapse_grads
from rlra_jax.rules import noisy_passes
from rlra_jax.rules.mirror import Mirror, mirror_of
from rlra_jax.rules.noisy_passes import Noise
from rlra_jax.synapses.path import Along, find_ways
from rlra_jax.synapses.straight import Straight
from rlra_jax.types import Array, Phi, PyTree, Weights
from rlra_jax.validate import per_region

Leave = Callable[[str, Array], Array]


class Held(NamedTuple):
    """A block's own arrays, by the names in the first block of its run."""

    params: Flat
    stats: Flat
    synapses: Flat  # as `blocks.to_flat` names them


class Flow(NamedTuple):
    """What goes up from block to block."""

    z: Array  # [B, ...] an activity; from the last block the outputs
    sum: Array | None = None  # [B, ...] what the outputs have got so far, where blocks have shares in them


class Passed(NamedTuple):
    """What a block's forward pass leaves."""

    h: dict[str, Array]  # region -> pre-activation [B, ...]; of the output the block's share
    z: dict[str, Array]  # region -> activity; what entered, too
    stats: Flat


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


class Setting(NamedTuple):
    """What all blocks share in one step."""

    shares: Shares
    options: Options
    mirror: Mirror  # the rule of edges that learn from noise; any where there are none
    kappas: Mapping[str, float]
    alphas: Mapping[str, float]
    key: Array  # of the model's random streams
    size: int  # B, over which updates are averaged
    start: Array | int  # where in the batch the examples begin that `parts` see
    shared: tuple[str, ...]  # axes of the mesh over which the batch is split

    @property
    def parts(self) -> Mapping[str, Part]:
        """The model taken apart."""
        return self.shares.parts


def setting(
    parts: Mapping[str, Part],
    options: Options,
    wiring: Wiring,
    key: Array,
    size: int,
    start: Array | int = 0,
    shared: tuple[str, ...] = (),
) -> Setting:
    """Resolves the per-region options.

    Raises:
      ValueError: an option names an unknown region.
    """
    hidden = [name for name, part in parts.items() if part.phi is not None]
    kappas, alphas = per_region('kappa', options.kappa, parts), per_region('alpha', options.alpha, hidden)
    mirror = mirror_of(wiring) or Mirror()
    return Setting(Shares(parts), options, mirror, kappas, alphas, key, size, start, shared)


def bottom(at: Setting, x: Array) -> Flow:
    """What enters the first block, of the batch's array `[B, ...]`."""
    output = at.parts[list(at.parts)[-1]]
    if not at.shares.apart:
        return Flow(x)
    nothing = jnp.zeros((len(x), *output.shape[1:]), output.dtype)
    return Flow(x, varying_like(nothing, x.reshape(-1)[0].astype(output.dtype)))


def entering(block: Block, flow: Flow) -> dict[str, Array]:
    """{name: activity} of what enters a block."""
    return {block.entry: flow.z} | ({} if flow.sum is None else {SUM: flow.sum})


def leaving(block: Block, passed: Passed) -> Flow:
    """What leaves a block."""
    output = block.wiring.output
    last = passed.z[block.regions[-1]]
    return Flow(last) if output in block.regions else Flow(last, passed.h.get(output, passed.z.get(SUM)))


def forward(at: Setting, block: Block, held: Held, flow: Flow, leave: Leave = lambda name, z: z) -> Passed:
    """Runs a block on what enters it."""
    h: dict[str, Array] = {}
    z = entering(block, flow)
    stats: dict[str, Array] = {}
    for name, part in at.shares.of(block.regions).items():
        h[name], activity, renewed = part.run(held.params, held.stats, z, at.key)
        z[name] = leave(name, activity) if part.phi else activity
        stats |= renewed
    return Passed(h, z, stats)


def paths(at: Setting, block: Block, held: Held, passed: Passed) -> dict[str, Along]:
    """{source: the way back over its edges of that kind}."""
    programs = {name: part.own for name, part in at.shares.of(block.regions).items()}
    return find_ways(block.wiring, programs, values(held.params, held.stats, passed.z, at.key), at.shared)


def spread(
    at: Setting,
    block: Block,
    held: Held,
    passed: Passed,
    paths: Mapping[str, Along],
    outputs: Array,
    e: Array,
    known: Mapping[str, Array] | None = None,
) -> Signals:
    """The recursion within a block.

    Args:
      at: the step.
      block: whose regions learn.
      held: the block's arrays.
      passed: what its forward pass left.
      paths: the ways back in it.
      outputs: the model's `[B, ...]`.
      e: their error neurons `[B, ...]`.
      known: edge name -> its displacement, where the errors have been sent before.
    """
    h = {name: widen(value) for name, value in passed.h.items()} | {block.wiring.output: widen(outputs)}
    levels, options = by_level(at, block, held.synapses), at.options
    if isinstance(options.alpha, Mapping):  # in one block only its own regions are known
        options = dataclasses.replace(options, alpha={name: at.alphas[name] for name in _phi(at, block)})
    root = {block.wiring.output: e}
    return propagate(block.wiring, levels, h, _phi(at, block), root, options, known=known, paths=paths)


def discrepancy(at: Setting, block: Block, signals: Signals) -> Array:
    """The block's part of the total discrepancy, summed over examples."""
    phi = _phi(at, block)
    missed = {name: signals.z[name] - signals.y[name] if name in phi else signals.e[name] for name in block.regions}
    return total_discrepancy(missed, at.kappas).sum()


def learn(
    at: Setting,
    block: Block,
    held: Held,
    passed: Passed,
    paths: Mapping[str, Along],
    signals: Signals,
    mirroring: Mirroring | None,
) -> Weights:
    """Gradients by the names of `held`.

    Of a part of the batch, its share: those of all parts add up. `update.rescale` is left to the caller.
    """
    params: dict[str, Array] = {}
    for name, part in at.shares.of(block.regions).items():
        params |= _pull(at, part, held, passed, (at.kappas[name] / at.size) * signals.e[name])
    examples = len(signals.e[block.wiring.output])
    share = examples / at.size  # rules average over the examples that they see
    h = {**passed.h, block.wiring.output: signals.e[block.wiring.output]}
    links = connect(block.wiring, h, paths)
    averaged = {path: update / share for path, update in params.items()}
    synapses = to_flat(synapse_grads(links, by_level(at, block, held.synapses), signals, averaged), 'edges')
    if mirroring is not None and mirror_of(block.wiring) is not None:
        synapses = jax.lax.cond(
            mirroring.active,
            lambda: synapses | _mirror(at, block, held, passed, links, mirroring),
            lambda: synapses,
        )
    return {'params': params, 'synapses': jax.tree.map(lambda g: share * g, synapses)}


def by_level(at: Setting, block: Block, synapses: Flat) -> PyTree:
    """A block's synapses as the error-pathway pytree of its own wiring."""
    parts = at.shares.of(block.regions)

    def like(edge: Edge) -> PyTree:
        return dict.fromkeys(parts[edge.source].region.weights, 0) if edge.kind.follows else 0

    levels = ({name: like(edges[0]) for name, edges in level.items()} for level in block.wiring.synapses)
    return tuple(of_synapses(level, synapses) for level in levels)


def _phi(at: Setting, block: Block) -> dict[str, Phi]:
    return {name: phi for name in block.regions if (phi := at.parts[name].phi) is not None}


def _pull(at: Setting, part: Part, held: Held, passed: Passed, e: Array) -> dict[str, Array]:
    """Eq. 5 for one region. Its activities are known, so the forward part of this is dead code where h is linear."""
    own = {path: held.params[path] for path in part.params}
    z = {parent: passed.z[parent] for parent in part.parents}
    h, pull = jax.vjp(lambda p: part.run(p, held.stats, z, at.key)[0], own)
    (update,) = pull(e.astype(h.dtype))
    return update


def draw(at: Setting, noise: Mapping[str, Noise], name: str) -> Array:
    """Draws xi of a region: of a part of the batch, that part of the whole batch's."""
    examples, *rest = at.parts[name].shape
    dtype = jnp.promote_types(at.parts[name].dtype, jnp.float32)
    xi = noisy_passes.draw(noise[name], (at.size, *rest), dtype, at.mirror.std)
    return jax.lax.dynamic_slice_in_dim(xi, at.start, examples)


def served(block: Block, noise: Mapping[str, Noise]) -> list[Edge]:
    """The block's edges that learn in the pass of this noise."""
    return [edge for edge in block.wiring.edges if edge.rule.noisy and edge.target in noise]


def signs(mirror: Mirror) -> tuple[float, ...]:
    """With which signs of the noise passes run."""
    return (1.0, -1.0) if mirror.antithetic else (1.0,)


def respond(at: Setting, block: Block, held: Held, flow: Flow, noise: Mapping[str, Noise], sign: float) -> Flow:
    """What leaves a block in the pass that runs through all of them."""

    def leave(name: str, z: Array) -> Array:
        return z + (sign * draw(at, noise, name)).astype(z.dtype) if name in noise else z

    return leaving(block, forward(at, block, held, flow, leave))


def guess(at: Setting, block: Block, held: Held, noise: Mapping[str, Noise], like: Array) -> Array:
    """What the block's synapses predict of the logits' response to its noise `[B, classes]`."""
    return sum(
        (_outer(at, e).see(held.synapses[e.name], {e.name: draw(at, noise, e.target)}) for e in served(block, noise)),
        start=jnp.zeros_like(like),
    )


def response(noisy: Sequence[Array], clean: Array) -> Array:
    """How the logits `[B, classes]` move with the noise: from those of a pass for each of `signs`."""
    up, *down = map(widen, noisy)
    return (up - down[0]) / 2 if down else up - clean


def outer_inputs(wiring: Wiring, parts: Mapping[str, Part]) -> float:
    """How many noise inputs each logit has in the pass that runs through all blocks; for `noisy_passes.curvature`."""
    outer, *_ = noisy_passes.group(wiring, list(parts))
    return sum(Straight(e, parts[e.source].shape, parts[e.target].shape).inputs(None) for e in outer)


def _outer(at: Setting, edge: Edge) -> Straight:
    """An edge from the output that learns in the pass that runs through all blocks."""
    return Straight(edge, at.parts[edge.source].shape, at.parts[edge.target].shape)


def _mirror(
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
    for e in served(block, mirroring.noise.outer):
        xi = {e.name: draw(at, mirroring.noise.outer, e.target)}
        grads[e.name] = noisy_passes.learn(_outer(at, e), held.synapses[e.name], residual, xi, scale)
    E = {name: E for level in by_level(at, block, held.synapses) for name, E in level.items()}

    def run(leave: Callable[..., Array], given: Mapping[str, Any]) -> dict[str, Array]:
        flow = Flow(passed.z[block.entry], passed.z.get(SUM))
        return forward(at, block, held, flow, lambda name, z: leave(name, z, given[name])).h

    for noise in filter(None, mirroring.noise.inner):
        edges = served(block, noise)
        own = {name: link for level in links for name, link in level.items() if not set(edges).isdisjoint(link.edges)}
        found = noisy_passes.run_pass(
            edges,
            {target: draw(at, noise, target) for target in noise},
            own,
            E,
            run,
            {name: widen(value) for name, value in passed.h.items()},
            _phi(at, block),
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
