"""The weight mirror that reaches across layers: synapses that learn the averaged Jacobian from noisy forward passes.

Independent noise xi_i, each entry s or -s by a coin flip, is added to the activity of many regions at once, and
E_{j->i} learns to predict the response delta_j of region j's pre-activation from it: a least-mean-squares regression,
whose solution is the Jacobian of h_j in z_i, averaged over examples and transposed. (A coin costs a 32nd of the random
bits of a normal number.) Two things keep the estimate quiet (figures in WORKSPACE.md):

- What the synapses predict already, from the noise of all regions, is subtracted from the response first. Where the
  operation between two regions is linear the residual vanishes, and E tends to the transposed weights exactly.
- Edges from the output and all others take passes of their own. Noise runs freely up to the regions that are sources
  in its pass, and stops there: what leaves a source is clean, since its own error stands for all that lies above it.

A region that hears both the output and another region learns the output's Jacobian along all paths, so the path through
that other region counts twice: give such a region one source, or the rule `fixed` on one of its edges.

Beyond the paper; akin to Akrout et al. 2019 and Lansdell et al. 2020.
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from rlra_jax.synapses import SYNAPSES, correlate, transmit_back
from rlra_jax.types import Array, Edge, Phi, PyTree, Wiring

# Runs the model with (region, z) -> what leaves the Site, and returns {region: h}.
NoisyPass = Callable[[Callable[[str, Array], Array]], Mapping[str, Array]]


def mirror_grads(
    wiring: Wiring,
    synapses: PyTree,
    run: NoisyPass,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    key: Array,
    *,
    std: float,
    antithetic: bool,
) -> tuple[dict[str, PyTree], ...]:
    """Gradient-like arrays for the edges whose rule is `mirror`; SGD on them is stable at rates below 2.

    Args:
      wiring: the error pathways.
      synapses: the error-pathway pytree.
      run: a forward pass with noise; it must draw the same dropout masks each time.
      h: region -> pre-activation of the clean pass `[B, ...]`.
      phi: hidden region -> activation function.
      key: for the noise.
      std: s, in units of the activity.
      antithetic: also run with -xi and halve the difference, which cancels the response's even part.

    Returns:
      Level by level, {edge name: a tree like E}; empty where a level has no such edge.
    """
    flat = {name: E for level in synapses for name, E in level.items()}
    mirrored = [edge for edge in wiring.edges if edge.rule == 'mirror']
    groups = [[e for e in mirrored if (e.source == wiring.output) == outer] for outer in (True, False)]
    grads: dict[str, PyTree] = {}
    for group, group_key in zip(groups, jax.random.split(key), strict=True):
        if group:
            xi = _draw(group, h, group_key, std)
            delta = _respond(group, run, h, phi, xi, antithetic)
            grads |= _regress(group, flat, delta, xi, std)
    return tuple({e.name: grads[e.name] for e in level if e.name in grads} for level in wiring.levels)


def _draw(edges: Sequence[Edge], h: Mapping[str, Array], key: Array, std: float) -> dict[str, Array]:
    """xi_i `[B, ...i]` for each target."""
    targets = list(dict.fromkeys(edge.target for edge in edges))
    keys = jax.random.split(key, len(targets))
    return {name: (std * _coins(k, h[name].shape)).astype(h[name].dtype) for name, k in zip(targets, keys, strict=True)}


def _coins(key: Array, shape: tuple[int, ...]) -> Array:
    """1 or -1 with equal odds: `jax.random.rademacher`, but from one random bit each."""
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return 1.0 - 2.0 * bits.reshape(-1)[:size].reshape(shape)


def _respond(
    edges: Sequence[Edge],
    run: NoisyPass,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    xi: Mapping[str, Array],
    antithetic: bool,
) -> dict[str, Array]:
    """delta_j `[B, ...j]` for each source: by how much its pre-activation moves with the noise."""
    sources = {edge.source for edge in edges}

    def leave(sign: float, name: str, z: Array) -> Array:
        z = phi[name](h[name]).astype(z.dtype) if name in sources else z
        return z + (sign * xi[name]).astype(z.dtype) if name in xi else z

    up = run(functools.partial(leave, 1.0))
    down, width = (run(functools.partial(leave, -1.0)), 2.0) if antithetic else (h, 1.0)
    return {name: (up[name].astype(h[name].dtype) - down[name].astype(h[name].dtype)) / width for name in sources}


def _regress(
    edges: Sequence[Edge], E: Mapping[str, PyTree], delta: Mapping[str, Array], xi: Mapping[str, Array], std: float
) -> dict[str, PyTree]:
    """{edge name: -(delta_j - prediction)^T xi_i / (B s^2)}, over the largest curvature of the regression.

    A parameter that serves many positions is seen that often by each example. Relative to that, the curvature is the
    top eigenvalue of xi^T xi / (B s^2) for n noise inputs and B examples, (1 + sqrt(n / B))^2 (Marchenko and Pastur
    1967).
    """
    grads: dict[str, PyTree] = {}
    for source, response in delta.items():
        own = [edge for edge in edges if edge.source == source]
        guesses = (transmit_back(e.kind, E[e.name], xi[e.target], response.shape) for e in own)
        residual = response - functools.reduce(operator.add, guesses)
        usage = {e.name: SYNAPSES[e.kind].usage(response.shape, xi[e.target].shape) for e in own}
        inputs = sum(use.inputs for use in usage.values())
        spread = (std * (1 + (inputs / response.shape[0]) ** 0.5)) ** 2
        for e in own:
            rate = -1 / (spread * usage[e.name].repeats)
            step = correlate(e.kind, E[e.name], residual, xi[e.target])
            grads[e.name] = jax.tree.map(lambda g, rate=rate: (rate * g).astype(g.dtype), step)
    return grads
