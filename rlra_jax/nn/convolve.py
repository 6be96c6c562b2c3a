"""Convolutions that are as fast inside an epoch, on a CPU, as outside it."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rlra_jax.types import Array
from rlra_jax.validate import require

_NARROW = 32  # channels, up to which smaller patches and a sum beside them are faster


def convolve(z: Array, w: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **defaults: Any) -> Array:
    """A convolution `[B, positions..., C]` by `[taps..., C, C']` -> `[B, positions'..., C']`.

    On a CPU it is a matrix product over patches, smaller ones where channels are few: XLA's convolutions slow down
    there more than tenfold inside loops, and under vmap over kernels, where they become grouped ones. An epoch is such
    a loop, vmapped over seeds. Figures in results/notes/cpu.md.

    Args:
      z: maps.
      w: kernels.
      strides: of each axis of positions.
      padding: zeros (before, after) each axis of positions; negative: positions left out.
      **defaults: what linen hands to `lax.conv_general_dilated` besides.

    Raises:
      ValueError: dilation or groups.
    """
    own = {name: defaults.get(name) for name in ('lhs_dilation', 'rhs_dilation', 'feature_group_count')}
    plain = all(size == 1 for value in own.values() for size in jax.tree.leaves(value))
    require(plain, 'a convolution', 'one without dilation and groups (a plain nn.Conv takes them)', own)
    if jax.default_backend() == 'cpu':
        return _by_patches(z, w, strides, padding)
    axes = tuple(range(1, z.ndim - 1))
    activity, kernel = (0, z.ndim - 1, *axes), (z.ndim - 1, z.ndim - 2, *(axis - 1 for axis in axes))
    numbers = lax.ConvDimensionNumbers(activity, kernel, activity)
    return lax.conv_general_dilated(z, w, strides, padding, dimension_numbers=numbers)


def _by_patches(z: Array, w: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]) -> Array:
    z = lax.pad(z, jnp.zeros((), z.dtype), [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)])
    if len(w) > 1 and strides[0] == 1 and w.shape[-1] <= _NARROW:
        return _tap_by_tap(z, w, strides[1:])
    return _patches(z, w.shape[:-2], strides) @ w.reshape(-1, w.shape[-1])


def _tap_by_tap(z: Array, w: Array, strides: Sequence[int]) -> Array:
    """Patches hold no taps of the first axis. Of each such tap there are products; those of neighbours add up."""
    taps, channels = len(w), w.shape[-1]
    side_by_side = w.reshape(taps, -1, channels).swapaxes(0, 1)  # taps have an axis of their own: see sparse.largest
    products = jnp.tensordot(_patches(z, w.shape[1:-2], strides), side_by_side, 1)
    size = z.shape[1] - taps + 1
    return functools.reduce(jnp.add, (products[:, t : t + size, ..., t, :] for t in range(taps)))


def _patches(z: Array, taps: Sequence[int], strides: Sequence[int]) -> Array:
    """`[B, positions..., C]` -> `[B, positions'..., taps C]`, of the taps of the last axes of positions."""
    sizes = [n - k + 1 for n, k in zip(z.shape[-1 - len(taps) : -1], taps, strict=True)]
    shifts = [
        z[..., *(slice(t, t + n, stride) for t, n, stride in zip(tap, sizes, strides, strict=True)), :]
        for tap in itertools.product(*map(range, taps))
    ]
    return jnp.concatenate(shifts, axis=-1)
