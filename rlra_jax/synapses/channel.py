"""A synapse that tells channels apart, and no positions."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from rlra_jax.edges import Shape
from rlra_jax.synapses.straight import StraightKind, Usage, channels
from rlra_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Channel(StraightKind):
    """d_p = mean over positions (e) E at every position p."""

    def init(self, key: Array, source: Shape, target: Shape, std: float) -> Array:
        """E `[C_source, C_target]`."""
        return std * jax.random.normal(key, (channels(source), channels(target)))

    def see(self, E: Array, z: Array, source: Shape) -> Array:
        """The sum of z over positions, E^T, shared out evenly."""
        total = z.sum(axis=tuple(range(1, z.ndim - 1))).reshape(len(z), -1) @ E.T / math.prod(source[1:-1])
        return jnp.broadcast_to(total.reshape(source[0], *(1 for _ in source[1:-1]), *source[1:][-1:]), source)

    def usage(self, source: Shape, target: Shape) -> Usage:
        """The mean shares each connection out over the source's positions, in one view: they all predict the same."""
        return Usage(math.prod(target[1:-1]) / math.prod(source[1:-1]), channels(target))

    def tiles(self, source: Shape, target: Shape) -> Shape:
        return tuple(1 for _ in target[1:-1])
