"""The weight mirror that reaches across layers: synapses that learn the averaged Jacobian from noisy forward passes.

Independent noise xi_i, s or -s by the flip of a coin, is added to the activity of many regions at once, and E_{j->i}
learns to predict the response delta_j of region j's pre-activation from it: a least-mean-squares regression, whose
solution is the Jacobian of h_j in z_i, averaged over examples and transposed. (A coin costs a 32nd of the random bits
of a normal number; positions that no synapse tells apart share one, see `draw`.)
Two things keep the estimate quiet (figures in results/notes/mirror.md):

- What the synapses predict already, from the noise of all regions, is subtracted from the response first. Where the
  operation between two regions is linear the residual vanishes, and E tends to the transposed weights exactly.
- In a pass, noise travels upwards until it reaches a source region, and stops there: the activity that leaves a source
  has no noise, as the source's own error stands for all that is above it. So E_{j->i} learns only the paths from i to j
  that contain no other source of i, and every path counts once. The sources of others may cut a region off from its
  own, and others may hear from a region that it feeds and does not hear, where no synapse predicts its noise: then it
  takes another pass (`group`).

Beyond the paper; akin to Akrout et al. 2019 and Lansdell et al. 2020.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.compiler import varying_like
from rlra_jax.edges import Carries, Edge, Link, Shape, Wiring
from rlra_jax.model.loops import Each
from rlra_jax.nn.cells import tile_of
from rlra_jax.rules.mirror import Mirror, mirror_of
from rlra_jax.types import Array, Phi, PyTree

# Runs the model with (region, z, what it is given of the region) -> what leaves the Site, and returns {region: h}.
NoisyPass = Callable[[Callable[[str, Array, Any], Array], Mapping[str, Any]], Mapping[str, Array]]


def mirror_grads(
    wiring: Wiring,
    links: Sequence[Mapping[str, Link]],
    synapses: PyTree,
    run: NoisyPass,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    key: Array,
) -> tuple[dict[str, PyTree], ...]:
    """Gradient-like arrays for the edges whose rule is `Mirror`; SGD on them is stable at rates below 2.

    Args:
      wiring: the error pathways.
      links: what its synapses do, as `propagate.connect` returns them.
      synapses: the error-pathway pytree.
      run: a forward pass with noise; it must draw the same dropout masks each time.
      h: region -> pre-activation of the clean pass `[B, ...]`.
      phi: hidden region -> activation function, in forward order.
      key: for the noise.

    Returns:
      Level by level, {synapse: a tree like E}; empty where a level has no such synapse.
    """
    rule = mirror_of(wiring)
    if rule is None:
        return tuple({} for _ in wiring.levels)
    flat = {name: E for level in synapses for name, E in level.items()}
    linked = {name: link for level in links for name, link in level.items()}
    grads: dict[str, PyTree] = {}
    for edges, noise in passes(wiring, {name: h[name].shape for name in (*phi, *wiring.outputs)}, key):
        if edges:
            xi = {
                name: varying_like(draw(own, h[name].shape, h[name].dtype, rule.std), h[name])
                for name, own in noise.items()
            }
            size = len(h[wiring.outputs[0]])
            own = {edge.synapse: linked[edge.synapse] for edge in edges}
            given = (edges, xi, own, flat, run, h, phi, stopping(wiring, edges), known_beside(wiring, linked, edges))
            grads = add_up(grads, run_pass(*given, rule=rule, size=size))
    return tuple({name: grads[name] for name in level if name in grads} for level in wiring.synapses)


@functools.partial(jax.tree_util.register_dataclass, data_fields=['key'], meta_fields=['tiles'])
@dataclasses.dataclass(frozen=True)
class Noise:
    """What noise a region gets in a pass."""

    key: Array
    tiles: tuple[int, ...]  # along each axis of positions: how many the synapses tell apart that learn from it


def passes(
    wiring: Wiring, shapes: Mapping[str, tuple[int, ...]], key: Array
) -> list[tuple[list[Edge], dict[str, Noise]]]:
    """(edges, {target: its noise}) of each pass.

    Args:
      wiring: the error pathways.
      shapes: region -> its shape `[B, ...]`, all regions in forward order.
      key: for the noise.
    """
    groups = group(wiring, list(shapes))
    found = []
    for edges, pass_key in zip(groups, jax.random.split(key, len(groups)), strict=True):
        tiles: dict[str, set[tuple[int, ...]]] = {}
        for edge in edges:
            source, target = shapes[edge.source], shapes[edge.target]
            tiles.setdefault(edge.target, set()).add(edge.kind.tiles(source, target))
        keys = jax.random.split(pass_key, len(tiles))
        noise = {
            target: Noise(own, *told if len(told) == 1 else (shapes[target][1:-1],))
            for (target, told), own in zip(tiles.items(), keys, strict=True)
        }
        found.append((edges, noise))
    return found


def group(wiring: Wiring, order: Sequence[str]) -> list[list[Edge]]:
    """The mirrored edges by the pass that serves them: those from the output afar, if it is all that their targets hear
    or if they carry the rest; then all others.

    Args:
      wiring: the error pathways.
      order: all regions in forward order.

    Returns:
      The edges of each pass, those of a region together. The first may be empty.
    """
    own: dict[str, list[Edge]] = {}
    for edge in wiring.edges:
        if edge.carries is not Carries.REST:
            own.setdefault(edge.target, []).append(edge)
    first = [edge for edge in wiring.edges if edge.rule.noisy and edge.carries is Carries.REST]
    stops = {target: stopping(wiring, heard) for target, heard in own.items()}
    readers: dict[str, list[str]] = {}
    for name, reader in wiring.feeds:
        readers.setdefault(name, []).append(reader)
    rest: list[list[Edge]] = []
    for heard in own.values():
        edges = [edge for edge in heard if edge.rule.noisy]
        if not edges:
            continue
        if from_afar(wiring, heard):
            first += edges
            continue
        together = next((each for each in rest if _undisturbed([*each, *edges], order, stops, readers)), None)
        if together is None:
            rest.append(together := [])
        together += edges
    return [first, *rest]


def _undisturbed(
    edges: Sequence[Edge],
    order: Sequence[str],
    stops: Mapping[str, frozenset[str]],
    readers: Mapping[str, Sequence[str]],
) -> bool:
    """Whether one pass can serve these edges: noise comes to all sources of its target, and to no other that learns.

    Args:
      edges: which they are.
      order: all regions in forward order.
      stops: {target: where its noise stops}.
      readers: region -> those that read its activity, as far as is known.
    """
    place = {name: i for i, name in enumerate(order)}
    sources: dict[str, set[str]] = {}
    for edge in edges:
        sources.setdefault(edge.target, set()).add(edge.source)
    learning, all_stops = set().union(*sources.values()), set().union(*(stops[target] for target in sources))
    passing = passed_on(edges, order, all_stops)
    for target, own in sources.items():
        between = set(order[place[target] + 1 : max(place[name] for name in stops[target])])
        reached: set[str] = set()
        todo = [target]
        while todo:
            new = set(readers.get(todo.pop(), ())) - reached
            reached |= new
            todo += new & passing
        if not (between - stops[target]).isdisjoint(all_stops) or not (reached & learning) <= own:
            return False
    return True


def from_afar(wiring: Wiring, heard: Sequence[Edge]) -> bool:
    """Whether all that a region hears, but for the rest, comes straight from the outputs: one pass serves all such."""
    return all(edge.source in wiring.outputs and not edge.kind.follows for edge in heard)


def stopping(wiring: Wiring, edges: Sequence[Edge]) -> frozenset[str]:
    """Where noise stops in the pass of these edges: at all that their targets hear, by whatever rule it learns.

    That of a target that hears along paths alone stops wherever it comes first: a path does not lead through others.
    """
    targets = {edge.target for edge in edges if edge.carries is not Carries.REST}
    heard = [edge for edge in wiring.edges if edge.target in targets and edge.carries is not Carries.REST]
    along = targets - {edge.target for edge in heard if not edge.kind.follows}
    first = frozenset(reader for name, reader in wiring.feeds if name in along)
    return first.union(edge.source for edge in (*edges, *heard))


def passed_on(
    edges: Sequence[Edge], order: Sequence[str], stops: Collection[str], looped: Collection[str] = ()
) -> set[str]:
    """The regions that hand on the noise of others in the pass of these edges: below a source of some target of theirs.

    Not those where it stops, and none from which noise would only go where nobody listens.

    Args:
      edges: those that learn in the pass.
      order: all regions in forward order.
      stops: from `stopping`.
      looped: regions in loops that JAX traces once: noise in one iteration reaches all regions of the next.
    """
    place = {name: i for i, name in enumerate(order)}
    top: dict[str, int] = {}
    for edge in edges:
        top[edge.target] = max(top.get(edge.target, 0), place[edge.source])
    found, reach, around = set(), 0, max((top.get(name, 0) for name in looped), default=0)
    for name, i in place.items():
        if i < (max(reach, around) if name in looped else reach) and name not in stops:
            found.add(name)
        reach = max(reach, top.get(name, 0))
    return found


def add_up(grads: Mapping[str, PyTree], more: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Gradients of several passes; a path whose targets get noise in several of them learns a part in each."""
    both = {name: jax.tree.map(operator.add, grads[name], g) for name, g in more.items() if name in grads}
    return {**grads, **more, **both}


def run_pass(
    edges: Sequence[Edge],
    xi: Mapping[str, Array],
    links: Mapping[str, Link],
    E: Mapping[str, PyTree],
    run: NoisyPass,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    stops: Collection[str],
    beside: Sequence[tuple[Edge, Link]] = (),
    *,
    rule: Mirror,
    size: int,
) -> dict[str, PyTree]:
    """{synapse: gradient} from one pass with the noise xi, or an antithetic pair.

    Args:
      edges: those that learn in it.
      xi: {target: noise}.
      links: {synapse: what it does}, at least of these edges.
      E: {synapse: its weights}, the same.
      run: a forward pass with noise.
      h: region -> pre-activation of the clean pass.
      phi: hidden region -> activation function, in forward order.
      stops: from `stopping`.
      beside: from `known_beside`.
      rule: of these edges.
      size: of the whole batch.
    """
    delta = _respond(edges, run, h, phi, xi, stops, rule.antithetic)
    grads: dict[str, PyTree] = {}
    for source, response in delta.items():
        own = {edge.synapse: links[edge.synapse] for edge in edges if edge.source == source}
        heard = {name: noise_of(link, edges, xi) for name, link in own.items()}
        known = (
            link.see(E[edge.synapse], {edge.name: xi[edge.target]}) for edge, link in beside if edge.source == source
        )
        predicted = [*(own[name].see(E[name], heard[name]) for name in own), *known]
        residual = response - functools.reduce(operator.add, predicted)
        scale = curvature(sum(link.inputs(E[name]) for name, link in own.items()), size, rule.std)
        for name, link in own.items():
            grads[name] = learn(link, E[name], residual, heard[name], scale)
    return grads


def known_beside(wiring: Wiring, links: Mapping[str, Link], edges: Sequence[Edge]) -> list[tuple[Edge, Link]]:
    """The paths of `beside`, with what their synapses do."""
    return [(edge, links[edge.synapse]) for edge in beside(wiring, edges)]


def beside(wiring: Wiring, edges: Sequence[Edge]) -> list[Edge]:
    """The paths that lie beside those of the edges that learn the rest: the rest is without these."""
    rest = {(edge.source, edge.target) for edge in edges if edge.carries is Carries.REST}
    return [edge for edge in wiring.edges if (edge.source, edge.target) in rest and edge not in edges]


def noise_of(link: Link, edges: Sequence[Edge], xi: Mapping[str, Array]) -> dict[str, Array]:
    """{edge name: noise at its target} for the edges of a synapse that take part in a pass."""
    return {edge.name: xi[edge.target] for edge in link.edges if edge in edges}


def draw(noise: Noise, shape: Shape, dtype: Any, std: float) -> Array:
    """xi: one coin for each tile of positions that the synapses cannot tell apart, spread evenly over the tile.

    A tile of n positions has s / sqrt(n) at each: for the synapses the same as n coins of their own. But what those
    have beside their sum, no synapse would see, and the source would answer to it all the same.
    """
    xi = std * _coins(noise.key, (shape[0], *noise.tiles, *shape[1:][-1:]), dtype)
    for axis, (n, tiles) in enumerate(zip(shape[1:-1], noise.tiles, strict=True), start=1):
        if tiles < n:
            own = tile_of(n, tiles)
            spread = np.sqrt(np.bincount(own)[own]).astype(dtype)
            xi = jnp.take(xi, own, axis) / jnp.expand_dims(spread, [i for i in range(xi.ndim) if i != axis])
    return xi


def _coins(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """1 or -1 with equal odds: `jax.random.rademacher`, but from one random bit each."""
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
    return 1.0 - 2.0 * bits.reshape(-1)[:size].reshape(shape).astype(dtype)


def _respond(
    edges: Sequence[Edge],
    run: NoisyPass,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    xi: Mapping[str, Array],
    stops: Collection[str],
    antithetic: bool,
) -> dict[str, Array]:
    """delta_j `[B, ...j]` for each source: by how much its pre-activation moves with the noise."""
    sources = dict.fromkeys(edge.source for edge in edges)  # in this order, whatever names hash to
    looped = [name for name, own in phi.items() if isinstance(own, Each)]
    passing = passed_on(edges, [*phi, *(name for name in sources if name not in phi)], stops, looped)

    clean = {name: own(h[name]) for name, own in phi.items() if name not in passing}  # what no noise enters
    given = {name: (clean.get(name), xi.get(name)) for name in phi}

    def leave(sign: float, name: str, z: Array, given: tuple[Array | None, Array | None]) -> Array:
        clean, noise = given
        z = z if clean is None else clean.astype(z.dtype)
        return z if noise is None else z + (sign * noise).astype(z.dtype)

    up = run(functools.partial(leave, 1.0), given)
    down, width = (run(functools.partial(leave, -1.0), given), 2.0) if antithetic else (h, 1.0)
    return {name: (up[name].astype(h[name].dtype) - down[name].astype(h[name].dtype)) / width for name in sources}


def learn(link: Link, E: PyTree, residual: Array, xi: Mapping[str, Array], scale: Array | float) -> PyTree:
    """-(delta_j - prediction)^T xi_i / B, over the curvature; of a path the share of its targets that get noise.

    Args:
      link: the synapse of edges j -> i.
      E: its weights.
      residual: delta_j less what all synapses predict of it `[B, ...j]`.
      xi: {edge name: noise at its target `[B, ...i]`}.
      scale: from `curvature`.
    """
    step = link.correlate(E, residual, xi)
    divisor = link.curvature(E, step, xi, scale) * len(link.edges) / len(xi)
    return jax.tree.map(lambda g: (-g / divisor).astype(g.dtype), step)


def curvature(inputs: float, batch: int, std: float) -> float:
    """What a step is divided by, so that rate 1 gets nearest to the Jacobian and rates below 2 are stable.

    s^2 (1 + n / B), the mean square of the eigenvalues of C = xi^T xi / B over their mean, for n noise inputs per unit
    of the source and B examples. A step at rate r multiplies what E lacks by 1 - r C / curvature, and every pass draws
    its own C: the expected square falls by the factor 1 - r (2 - r) / (1 + n / B).
    """
    return std**2 * (1 + inputs / batch)
