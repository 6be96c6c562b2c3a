"""Cells: positions of a map that are taken together."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlra_jax.types import Array


def tile_of(n: int, tiles: int) -> np.ndarray:
    """In which of so many runs, as even as can be, each of n positions is."""
    return np.arange(n) * tiles // n


def cell_means(z: Array, cells: int) -> Array:
    """`[B, positions..., C]` -> `[B, cells..., C]`: means over at most so many cells along each axis of positions."""
    for axis, n in enumerate(z.shape[1:-1], start=1):
        z = jnp.moveaxis(jnp.tensordot(z, _means(n, cells, z.dtype), (axis, 0)), -1, axis)
    return z


@functools.cache
def _means(n: int, cells: int, dtype: Any) -> np.ndarray:
    own = tile_of(n, min(n, cells))
    return (np.eye(own[-1] + 1)[own] / np.bincount(own)).astype(dtype)
