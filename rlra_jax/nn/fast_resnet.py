"""A small residual network that sees whitened patches, in the manner of published speed runs (Jordan 2024)."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.model.site import Site
from rlra_jax.nn.convolve import convolve
from rlra_jax.nn.layers import convolution, normalise, require_images
from rlra_jax.nn.readouts import read_all
from rlra_jax.types import Array, Phi, Variables
from rlra_jax.validate import require, require_count, require_counts

_PATCH = 2  # pixels along each side of what is whitened
_BIAS = 5e-4  # added to each eigenvalue of the covariance of patches


class FastResNet(nn.Module):
    """Stages of two layers, the second with a skip, on whitened patches; `[B, H, W, C]` -> logits `[B, classes]`.

    The first layer puts out phi of each 2 x 2 patch's whitened components and of their negatives. It holds no
    parameter: its kernel is the collection 'whitening', which comes from data by `fitted` and which nothing trains. As
    made, it puts out the pixels. Each stage halves the map: it keeps the largest of every 2 x 2 positions.

    Regions: 'stage_s/act_1' and 'stage_s/act_2', the output of a stage, after the sum.

    Attributes:
      widths: channels of each stage; of n stages each side of the images must have 2^n + 1 pixels or more.
      classes: size of the output.
      phi: activation function.
      norm: 'batch' (the call then wants train=True in training), 'group' or 'layer'.
      readout: 'last': of the last stage's mean over positions; 'all': also of every other stage.
      cells: of these it reads the means over so many cells along each axis of positions.
      dtype: to compute in; None: the wider of the input's and param_dtype.
      param_dtype: of the parameters, and the least that logits are computed in.

    Raises:
      ValueError: a width or classes below 1, an unknown norm or readout, images that are too small.
    """

    widths: Sequence[int] = (64, 256, 256)
    classes: int = 10
    phi: Phi = jax.nn.gelu
    norm: str = 'batch'
    readout: str = 'last'
    cells: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        require_images(x)
        require_counts('widths', self.widths)
        require_count('number of widths', len(self.widths))
        require_count('classes', self.classes)
        pixels = _PATCH**2 * x.shape[-1]
        whitening = self.variable('whitening', 'kernel', lambda: _filters(jnp.eye(pixels, dtype=self.param_dtype)))
        dtype = self.dtype or jnp.promote_types(x.dtype, self.param_dtype)
        z = self.phi(convolve(x.astype(dtype), whitening.value.astype(dtype), (1, 1), ((0, 0), (0, 0))))
        stage = functools.partial(
            Stage, phi=self.phi, norm=self.norm, train=train, dtype=self.dtype, param_dtype=self.param_dtype
        )
        read = dict[str, Array]()
        for number, width in enumerate(self.widths, start=1):
            read[f'stage_{number}'] = z = stage(width, name=f'stage_{number}')(z)
        read.popitem()
        pooled = z.astype(jnp.promote_types(z.dtype, self.param_dtype)).mean(axis=(1, 2))
        return read_all(self, nn.Dense(self.classes, param_dtype=self.param_dtype, name='readout')(pooled), read)

    def fitted(self, images: Array) -> Variables:
        """The collections that come from data: {'whitening': ...} of images `[N, H, W, C]`, as the model sees them."""
        patches = jax.lax.conv_general_dilated_patches(
            jnp.asarray(images), (_PATCH, _PATCH), (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        channels = images.shape[-1]
        flat = np.asarray(patches, np.float64).reshape(-1, channels, _PATCH**2).swapaxes(1, 2)
        values, vectors = np.linalg.eigh(np.cov(flat.reshape(len(flat), -1), rowvar=False))
        components = vectors / np.sqrt(np.maximum(values, 0) + _BIAS)
        return {'whitening': {'kernel': _filters(jnp.asarray(components, self.param_dtype))}}


def _filters(components: Array) -> Array:
    """Components of patches `[pixels, n]`, and their negatives -> a kernel `[2, 2, C, 2 n]`."""
    both = jnp.concatenate([components, -components], axis=1)
    return both.reshape(_PATCH, _PATCH, -1, both.shape[1])


class Stage(nn.Module):
    """h_1 = norm(pool(conv(z_0))), h_2 = norm(conv(z_1)) + z_1, with 3 x 3 convolutions.

    Attributes: see `FastResNet`; width: channels.
    """

    width: int
    phi: Phi
    norm: str
    train: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, z: Array) -> Array:
        shared = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        norm: Any = functools.partial(normalise, kind=self.norm, train=self.train, **shared)
        h = norm(_pool(convolution(self.width, 3, 1, name='conv_1', **shared)(z)), name='norm_1')
        z = Site(self.phi, name='act_1')(h)
        h = norm(convolution(self.width, 3, 1, name='conv_2', **shared)(z), name='norm_2')
        return Site(self.phi, name='act_2')(h + z)


def _pool(h: Array) -> Array:
    """The largest of each 2 x 2 positions `[B, H, W, C]` -> `[B, H // 2, W // 2, C]`; what is left over is not read."""
    height, width = h.shape[1] // 2, h.shape[2] // 2
    require(height and width, 'maps that a stage halves', 'of at least 2 x 2 positions', h.shape[1:3])
    # On a CPU the gradient of linen's max_pool takes four times as long.
    tiles = h[:, : 2 * height, : 2 * width].reshape(h.shape[0], height, 2, width, 2, h.shape[-1])
    return tiles.max(axis=(2, 4))
