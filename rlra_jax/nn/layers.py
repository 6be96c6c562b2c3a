"""What the convolutional models are made of: convolutions and normalisations."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from rlra_jax.nn.convolve import convolve
from rlra_jax.types import Array
from rlra_jax.validate import lookup, require, require_count

_GROUP = 16  # channels that group normalisation takes together (Wu and He 2018)

# (features, kernel size, stride, dtype=, param_dtype=, name=) -> a module from [B, H, W, C] to [B, H', W', features]
Conv = Callable[..., nn.Module]


def require_images(x: Array) -> None:
    """Raises ValueError unless x is `[B, H, W, C]`; linen would take `[B, H, W]` for one image of B rows."""
    require(x.ndim == 4, 'images', 'of the shape [B, H, W, C]', x.shape)


def convolution(features: int, kernel: int, stride: int, **options: Any) -> nn.Conv:
    """A square convolution, padded so that stride 1 keeps the size; a normalisation that follows brings the bias."""
    require_count('features', features)
    padding = [((kernel - 1) // 2, kernel // 2)] * 2
    options['conv_general_dilated_cls'] = lambda: convolve
    return nn.Conv(features, (kernel, kernel), (stride, stride), padding=padding, use_bias=False, **options)


def _batch(channels: int, train: bool, **options: Any) -> nn.Module:
    del channels
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, **options)


def _group(channels: int, train: bool, **options: Any) -> nn.Module:
    del train
    shared = math.gcd(_GROUP, channels)
    # A group of one channel at one position would always be 0.
    return nn.GroupNorm(num_groups=None, group_size=shared if shared > 1 else channels, **options)


def _layer(channels: int, train: bool, **options: Any) -> nn.Module:
    del channels, train
    return nn.GroupNorm(num_groups=1, **options)


NORMS: dict[str, Callable[..., nn.Module]] = {'batch': _batch, 'group': _group, 'layer': _layer}


def normalise(h: Array, kind: str, train: bool = False, **options: Any) -> Array:
    """Normalises maps `[B, H, W, C]`, then scales and shifts each channel. To be called where modules are made.

    Args:
      h: pre-activations.
      kind: 'batch': each channel over the batch, or by running statistics outside training; 'group': each example over
        16 channels at a time and all positions (over as many as divide both 16 and C; over all C if that is odd);
        'layer': each example over all its channels and positions.
      train: whether 'batch' takes the batch's own statistics, and updates the running ones.
      **options: dtype, param_dtype and name of the linen module.

    Raises:
      ValueError: an unknown kind.
    """
    return lookup(NORMS, kind, 'normalisation')(h.shape[-1], train, **options)(h)
