"""A synapse between regions of the same positions."""

import dataclasses
import math

import jax

from rlra_jax.edges import Shape
from rlra_jax.synapses.straight import StraightKind, Usage, channels
from rlra_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Token(StraightKind):
    """d_p = e_p E at each position p."""

    def init(self, key: Array, source: Shape, target: Shape, std: float) -> Array:
        """E `[C_source, C_target]`."""
        if source[1:-1] != target[1:-1]:
            raise ValueError(f'a Token synapse joins regions of the same positions; got {source} and {target}')
        return std * jax.random.normal(key, (channels(source), channels(target)))

    def see(self, E: Array, z: Array, source: Shape) -> Array:
        """S_p = z_p E^T."""
        return (z.reshape(*z.shape[:1], *z.shape[1:-1], E.shape[1]) @ E.T).reshape(source)

    def usage(self, source: Shape, target: Shape) -> Usage:
        positions = math.prod(source[1:-1])
        return Usage(positions, channels(target) / positions)
