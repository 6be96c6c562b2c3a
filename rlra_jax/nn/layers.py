"""What the convolutional models are made of: convolutions and normalisations."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.types import Array
from rlra_jax.validate import lookup, require_count

_GROUP = 16  # channels that group normalisation takes together (Wu and He 2018)

# (features, kernel size, stride, dtype=, param_dtype=, name=) -> a module from [B, H, W, C] to [B, H', W', features]
Conv = Callable[..., nn.Module]


def convolution(features: int, kernel: int, stride: int, **options: Any) -> nn.Conv:
    """A square convolution, padded so that stride 1 keeps the size; a normalisation that follows brings the bias."""
    require_count('features', features)
    if jax.default_backend() == 'cpu':
        options['conv_general_dilated_cls'] = lambda: convolve_by_patches
    return nn.Conv(features, (kernel, kernel), (stride, stride), padding=kernel // 2, use_bias=False, **options)


def convolve_by_patches(
    z: Array, w: Array, strides: tuple[int, int], padding: Sequence[tuple[int, int]], **defaults: Any
) -> Array:
    """A convolution `[B, H, W, C]` by `[k, k', C, C']` -> `[B, H', W', C']` as one matrix product over patches.

    XLA's convolutions on CPUs slow down more than tenfold inside loops, and under vmap over kernels, where they become
    grouped ones; an epoch is such a loop, vmapped over seeds. Figures in WORKSPACE.md.

    Args:
      z: maps.
      w: kernels.
      strides: of the rows and the columns.
      padding: zeros (before, after) the rows and the columns.
      **defaults: what `lax.conv_general_dilated` takes besides, unused: no dilation, no groups, channels last.
    """
    del defaults
    z = jnp.pad(z, ((0, 0), *padding, (0, 0)))
    rows, columns = (z.shape[axis] - w.shape[axis - 1] + 1 for axis in (1, 2))
    shifts = [
        z[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(w.shape[0])
        for j in range(w.shape[1])
    ]
    return jnp.concatenate(shifts, axis=-1) @ w.reshape(-1, w.shape[-1])


def _batch(channels: int, train: bool, **options: Any) -> nn.Module:
    del channels
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, **options)


def _group(channels: int, train: bool, **options: Any) -> nn.Module:
    del train
    return nn.GroupNorm(num_groups=None, group_size=math.gcd(_GROUP, channels), **options)


def _layer(channels: int, train: bool, **options: Any) -> nn.Module:
    del channels, train
    return nn.GroupNorm(num_groups=1, **options)


NORMS: dict[str, Callable[..., nn.Module]] = {'batch': _batch, 'group': _group, 'layer': _layer}


def normalise(h: Array, kind: str, train: bool = False, **options: Any) -> Array:
    """Normalises maps `[B, H, W, C]`, then scales and shifts each channel. To be called where modules are made.

    Args:
      h: pre-activations.
      kind: 'batch': each channel over the batch, or by running statistics outside training; 'group': each example over
        16 channels at a time and all positions; 'layer': each example over all its channels and positions.
      train: whether 'batch' takes the batch's own statistics, and updates the running ones.
      **options: dtype, param_dtype and name of the linen module.

    Raises:
      ValueError: an unknown kind.
    """
    return lookup(NORMS, kind, 'normalisation')(h.shape[-1], train, **options)(h)
