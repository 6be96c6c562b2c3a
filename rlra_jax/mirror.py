"""The weight mirror that reaches across layers: synapses that learn the averaged Jacobian from noisy forward passes.

Independent noise xi_i ~ N(0, s^2) is added to the activity of all mirrored regions at once. With delta_j the response
of region j's pre-activation, E_{j->i} moves towards the batch mean of delta_j^T xi_i / s^2; the other regions' noise
averages out. Beyond the paper; akin to Akrout et al. 2019 and Lansdell et al. 2020.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlra_jax.synapses import correlate
from rlra_jax.types import Array, PyTree, Wiring

# Runs the model with (region, z) -> what leaves the Site, and returns {region: h}.
NoisyPass = Callable[[Callable[[str, Array], Array]], Mapping[str, Array]]


def mirror_grads(
    wiring: Wiring,
    synapses: PyTree,
    run: NoisyPass,
    h: Mapping[str, Array],
    key: Array,
    *,
    std: float,
    antithetic: bool,
) -> tuple[dict[str, Array], ...]:
    """E minus its estimate, for the edges whose rule is `mirror`: an SGD step of size r moves E by r towards it.

    Args:
      wiring: the error pathways.
      synapses: the error-pathway pytree.
      run: a forward pass with noise; it must draw the same dropout masks each time.
      h: region -> pre-activation of the clean pass `[B, ...]`.
      key: for the noise.
      std: s, in units of the activity.
      antithetic: also run with -xi and halve the difference, which cancels the response's even part.

    Returns:
      Level by level, {edge name: gradient-like array of E's shape}; empty where a level has no such edge.

    """
    mirrored = [edge for edge in wiring.edges if edge.rule == 'mirror']
    regions = list(dict.fromkeys(edge.target for edge in mirrored))
    keys = dict(zip(regions, jax.random.split(key, len(regions)), strict=True))
    xi = {name: std * jax.random.normal(keys[name], h[name].shape, h[name].dtype) for name in regions}

    def respond(sign: float) -> Mapping[str, Any]:
        return run(lambda name, z: z + (sign * xi[name]).astype(z.dtype) if name in xi else z)

    up = respond(1.0)
    down, width = (respond(-1.0), 2.0) if antithetic else (h, 1.0)
    sources = {edge.source for edge in mirrored}
    delta = {name: (up[name].astype(jnp.float32) - down[name].astype(jnp.float32)) / width for name in sources}

    def towards(kind: str, E: Array, source: str, target: str) -> Array:
        return E - correlate(kind, E, delta[source], xi[target]) / std**2

    return tuple(
        {e.name: towards(e.kind, level[e.name], e.source, e.target) for e in edges if e.rule == 'mirror'}
        for edges, level in zip(wiring.levels, synapses, strict=True)
    )
