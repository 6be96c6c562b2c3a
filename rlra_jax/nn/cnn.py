"""A plain convolutional network."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rlra_jax.model.site import Site
from rlra_jax.nn.layers import convolution, normalise, require_images
from rlra_jax.nn.readouts import read_all
from rlra_jax.types import Array, Phi
from rlra_jax.validate import require, require_count, require_counts


class CNN(nn.Module):
    """Convolutions, each normalised per example, and a dense readout; `[B, H, W, C]` -> logits `[B, classes]`.

    Attributes:
      widths: channels of each convolution; region l is named 'hidden_l', from 1.
      strides: of each convolution.
      kernel: size of their square kernels.
      classes: size of the output.
      phi: activation function of the hidden layers.
      norm: normalisation before each activation, 'layer' or 'group'.
      readout: 'last': of the last convolution; 'all': also of every other one.
      cells: of these it reads the means over so many cells along each axis of positions.
      dtype: to compute in; None: the wider of the input's and param_dtype.
      param_dtype: of the parameters, and the least that logits are computed in.

    Raises:
      ValueError: a size below 1, not one stride for each width, an unknown norm or readout, or images without channels.
    """

    widths: Sequence[int] = (32, 32, 64, 64, 128, 128)
    strides: Sequence[int] = (1, 2, 1, 2, 1, 2)
    kernel: int = 3
    classes: int = 10
    phi: Phi = jnp.tanh
    norm: str = 'layer'
    readout: str = 'last'
    cells: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        require_images(x)
        require_counts('widths', self.widths)
        require_count('number of widths', len(self.widths))
        require_counts('strides', self.strides)
        require_count('kernel', self.kernel)
        require_count('classes', self.classes)
        require(len(self.strides) == len(self.widths), 'strides', f'{len(self.widths)}, one a width', self.strides)
        require(self.norm in ('layer', 'group'), 'norm', "'layer' or 'group'", self.norm)
        shared = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        z, read = x, dict[str, Array]()
        for depth, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True), start=1):
            h = convolution(width, self.kernel, stride, name=f'conv_{depth}', **shared)(z)
            h = normalise(h, kind=self.norm, name=f'norm_{depth}', **shared)
            read[f'hidden_{depth}'] = z = Site(self.phi, name=f'hidden_{depth}')(h)
        read.popitem()
        y = nn.Dense(self.classes, param_dtype=self.param_dtype, name='readout')(z.reshape(z.shape[0], -1))
        return read_all(self, y, read)
