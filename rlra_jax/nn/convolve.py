"""Convolutions that are as fast inside an epoch, on a CPU, as outside it."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rlra_jax.types import Array


def convolve(z: Array, w: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **defaults: Any) -> Array:
    """A convolution `[B, positions..., C]` by `[taps..., C, C']` -> `[B, positions'..., C']`.

    On a CPU it is one matrix product over patches: XLA's convolutions there slow down more than tenfold inside loops,
    and under vmap over kernels, where they become grouped ones; an epoch is such a loop, vmapped over seeds. Figures in
    results/notes/cpu.md.

    Args:
      z: maps.
      w: kernels.
      strides: of each axis of positions.
      padding: zeros (before, after) each axis of positions; negative: positions left out.
      **defaults: what linen hands to `lax.conv_general_dilated` besides, unused: no dilation, no groups.
    """
    del defaults
    if jax.default_backend() == 'cpu':
        return _by_patches(z, w, strides, padding)
    axes = tuple(range(1, z.ndim - 1))
    activity, kernel = (0, z.ndim - 1, *axes), (z.ndim - 1, z.ndim - 2, *(axis - 1 for axis in axes))
    numbers = lax.ConvDimensionNumbers(activity, kernel, activity)
    return lax.conv_general_dilated(z, w, strides, padding, dimension_numbers=numbers)


def _by_patches(z: Array, w: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]) -> Array:
    z = lax.pad(z, jnp.zeros((), z.dtype), [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)])
    taps = w.shape[:-2]
    sizes = [n - k + 1 for n, k in zip(z.shape[1:-1], taps, strict=True)]
    shifts = [
        z[:, *(slice(t, t + n, stride) for t, n, stride in zip(tap, sizes, strides, strict=True))]
        for tap in itertools.product(*map(range, taps))
    ]
    return jnp.concatenate(shifts, axis=-1) @ w.reshape(-1, w.shape[-1])
