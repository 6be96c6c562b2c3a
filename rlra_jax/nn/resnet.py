"""Residual networks (He et al. 2016): a region's h is the value after the residual sum."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.model.site import Site
from rlra_jax.nn.layers import Conv, convolution, normalise, require_images
from rlra_jax.nn.perturbative import perturbation
from rlra_jax.nn.readouts import read_all
from rlra_jax.types import Array, Phi
from rlra_jax.validate import lookup, require_count, require_counts

STEMS = {'cifar': (3, 1), 'imagenet': (7, 2)}  # kernel size and stride of the first convolution


class ResNet(nn.Module):
    """Stages of residual blocks; `[B, H, W, C]` -> logits `[B, classes]`.

    Regions: 'stem', then 'stage_s/block_b/act_l' for l = 1 to g, the last of a block being its output, after the sum.
    The stages have widths 1, 2, 4, ... times `width`, and all but the first halve the size of the maps.

    Attributes:
      blocks: residual blocks of each stage.
      kernels: kernel size of each convolution of a block; their number is the paper's residual gap g.
      expansion: a block puts out so many times the channels that its inner convolutions have.
      width: channels of the first stage: 64 in the usual networks.
      classes: size of the output.
      phi: activation function.
      stem: 'cifar' (3 x 3 convolution) or 'imagenet' (7 x 7 with stride 2, and 3 x 3 max-pooling with stride 2).
      norm: 'batch' (the call then wants train=True in training), 'group' or 'layer'.
      conv: makes the blocks' convolutions, those of projected shortcuts apart.
      readout: 'last': of the last block's mean over positions; 'all': also of the stem and of every other block.
      cells: of these it reads the means over so many cells along each axis of positions.
      dtype: to compute in; None: the wider of the input's and param_dtype.
      param_dtype: of the parameters, and the least that logits are computed in.

    Raises:
      ValueError: a size below 1, an unknown stem, norm or readout, or images without an axis of channels.
    """

    blocks: Sequence[int] = (2, 2, 2, 2)
    kernels: Sequence[int] = (3, 3)
    expansion: int = 1
    width: int = 64
    classes: int = 10
    phi: Phi = jax.nn.relu
    stem: str = 'cifar'
    norm: str = 'batch'
    conv: Conv = convolution
    readout: str = 'last'
    cells: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        require_images(x)
        for name in ('width', 'expansion', 'classes'):
            require_count(name, getattr(self, name))
        require_counts('blocks', self.blocks)
        require_counts('kernels', self.kernels)
        kernel, stride = lookup(STEMS, self.stem, 'stem')
        shared = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        h = convolution(self.width, kernel, stride, name='stem_conv', **shared)(x)
        z = Site(self.phi, name='stem')(normalise(h, kind=self.norm, train=train, name='stem_norm', **shared))
        read = {'stem': z}
        if self.stem == 'imagenet':
            z = nn.max_pool(z, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        block = functools.partial(
            Block,
            kernels=self.kernels,
            expansion=self.expansion,
            phi=self.phi,
            norm=self.norm,
            conv=self.conv,
            train=train,
            **shared,
        )
        for stage, count in enumerate(self.blocks):
            own = Stage(block, count, self.width * 2**stage, 2 if stage else 1, name=f'stage_{stage + 1}')(z)
            read |= {f'stage_{stage + 1}/{name}': z for name, z in own.items()}
            (*_, z) = own.values()
        read.popitem()
        pooled = z.astype(jnp.promote_types(z.dtype, self.param_dtype)).mean(axis=(1, 2))
        return read_all(self, nn.Dense(self.classes, param_dtype=self.param_dtype, name='readout')(pooled), read)


class Stage(nn.Module):
    """Blocks of one width, the first of which takes the stride; `[B, H, W, C]` -> {block: what leaves it}, in order.

    Attributes:
      block: makes a block from its width, stride and name.
      count: number of blocks.
      width: channels inside a block.
      stride: of the first block.
    """

    block: Any
    count: int
    width: int
    stride: int

    @nn.compact
    def __call__(self, z: Array) -> dict[str, Array]:
        require_count('blocks', self.count)
        left: dict[str, Array] = {}
        for index in range(self.count):
            name = f'block_{index + 1}'
            left[name] = z = self.block(width=self.width, stride=1 if index else self.stride, name=name)(z)
        return left


class Block(nn.Module):
    """h_l = f(z_{l-1}) for l < g, and h_g = f(z_{g-1}) + z_0, where f convolves and normalises.

    Where the sum's shapes differ, z_0 goes through a 1 x 1 convolution and a normalisation. The stride is that of the
    first convolution that looks beyond one position.

    Attributes: see `ResNet`; width: channels of the inner convolutions.
    """

    kernels: Sequence[int]
    expansion: int
    width: int
    stride: int
    phi: Phi
    norm: str
    conv: Conv
    train: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, z: Array) -> Array:
        require_count('number of kernels', len(self.kernels))
        shared = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        norm: Any = functools.partial(normalise, kind=self.norm, train=self.train, **shared)
        gap, features = len(self.kernels), self.width * self.expansion
        strided = next((depth for depth, kernel in enumerate(self.kernels, start=1) if kernel > 1), 1)
        skip = z
        if self.stride > 1 or z.shape[-1] != features:
            skip = norm(convolution(features, 1, self.stride, name='shortcut_conv', **shared)(z), name='shortcut_norm')
        for depth, kernel in enumerate(self.kernels, start=1):
            width, stride = features if depth == gap else self.width, self.stride if depth == strided else 1
            h = norm(self.conv(width, kernel, stride, name=f'conv_{depth}', **shared)(z), name=f'norm_{depth}')
            z = Site(self.phi, name=f'act_{depth}')(h + skip if depth == gap else h)
        return z


ResNet18 = functools.partial(ResNet, blocks=(2, 2, 2, 2), kernels=(3, 3))
ResNet50 = functools.partial(ResNet, blocks=(3, 4, 6, 3), kernels=(1, 3, 1), expansion=4)
PResNet18 = functools.partial(ResNet18, conv=perturbation)  # the paper's pResNet
