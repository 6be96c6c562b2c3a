"""What the convolutional models are made of: convolutions and normalisations."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.types import Array
from rlra_jax.validate import lookup, require_count

_GROUP = 16  # channels that group normalisation takes together (Wu and He 2018)

# (features, kernel size, stride, dtype=, param_dtype=, name=) -> a module from [B, H, W, C] to [B, H', W', features]
Conv = Callable[..., nn.Module]


class Convolution(nn.Module):
    """A square convolution `[B, H, W, C]` -> `[B, H', W', C']`, without a bias: the normalisation after it has one.

    Attributes:
      features: C'.
      kernel: size of the square kernel; the maps are padded by half of it, so that stride 1 keeps an odd kernel's maps.
      stride: of both axes.
      dtype: to compute in; None: the wider of the input's and param_dtype.
      param_dtype: of the kernel `[kernel, kernel, C, C']`.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        for name in ('features', 'kernel', 'stride'):
            require_count(name, getattr(self, name))
        shape = (self.kernel, self.kernel, z.shape[-1], self.features)
        w = self.param('kernel', nn.initializers.lecun_normal(), shape, self.param_dtype)
        z, w = nn.dtypes.promote_dtype(z, w, dtype=self.dtype)
        convolve = convolve_by_patches if jax.default_backend() == 'cpu' else convolve_directly
        return convolve(z, w, self.stride)


def convolve_directly(z: Array, w: Array, stride: int) -> Array:
    """`[B, H, W, C]` by `[k, k, C, C']`, padded by k // 2 on each side -> `[B, H', W', C']`."""
    pad = (w.shape[0] // 2,) * 2
    return jax.lax.conv_general_dilated(z, w, (stride, stride), (pad, pad), dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def convolve_by_patches(z: Array, w: Array, stride: int) -> Array:
    """The same as one matrix product over patches.

    XLA's convolutions on CPUs slow down more than tenfold inside loops, and under vmap over kernels, where they become
    grouped ones; an epoch is such a loop, vmapped over seeds. Figures in WORKSPACE.md.
    """
    size, pad = w.shape[0], (w.shape[0] // 2,) * 2
    z = jnp.pad(z, ((0, 0), pad, pad, (0, 0)))
    rows, columns = (z.shape[axis] - size + 1 for axis in (1, 2))
    shifts = [z[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]
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
