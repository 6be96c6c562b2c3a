"""A synapse that tells cells of positions apart."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.edges import Shape
from rlra_jax.nn.cells import tile_of
from rlra_jax.synapses.straight import StraightKind, Usage, channels
from rlra_jax.types import Array
from rlra_jax.validate import require_count


@dataclasses.dataclass(frozen=True)
class Grid(StraightKind):
    """Dense between the source and cells of the target's map; d is the same at all positions of a cell.

    Attributes:
      cells: how many along each axis of positions, or as many as there are positions.

    Raises:
      ValueError: cells is no whole number of at least 1.
    """

    cells: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count('cells', self.cells)

    def init(self, key: Array, source: Shape, target: Shape, std: float) -> Array:
        """E `[n_source, cells * C_target]`."""
        cells = math.prod(self.tiles(source, target))
        return std * jax.random.normal(key, (math.prod(source[1:]), cells * channels(target)))

    def see(self, E: Array, z: Array, source: Shape) -> Array:
        """S sums z over each cell, then is dense."""
        for axis, count in enumerate(self.tiles(source, z.shape), start=1):
            member = np.eye(count)[tile_of(z.shape[axis], count)]
            z = jnp.moveaxis(jnp.tensordot(z, member.astype(z.dtype), (axis, 0)), -1, axis)
        return (z.reshape(z.shape[0], -1) @ E.T).reshape(source)

    def usage(self, source: Shape, target: Shape) -> Usage:
        cells = zip(target[1:-1], self.tiles(source, target), strict=True)
        sizes = functools.reduce(np.multiply.outer, (np.bincount(tile_of(*axis)) for axis in cells), np.ones(()))
        return Usage(np.repeat(sizes, channels(target))[None], sizes.size * channels(target))

    def tiles(self, source: Shape, target: Shape) -> Shape:
        return tuple(min(n, self.cells) for n in target[1:-1])
