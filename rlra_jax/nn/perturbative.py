"""The paper's pseudo-convolution: fixed noise maps and a learned combination (Juefei-Xu et al. 2018)."""

import zlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.nn.layers import convolution
from rlra_jax.types import Array
from rlra_jax.validate import require_count, require_number


class PerturbativeConv(nn.Module):
    """z^c = sum_m w^{m,c} phi_r(z^m + n^m), phi_r = relu; `[B, H, W, C]` -> `[B, H / stride, W / stride, features]`.

    The noise maps n^m are cycled through the channels, or the channels through the maps where there are fewer of them,
    so m runs to max(masks, C). They belong to the layer: drawn from its seed and its path in the model, they are no
    variables, so that no optimizer, checkpoint or vmap over seeds holds them. Only w learns, the kernel of a Dense
    named 'combine', and its update (Eq. 5) needs no derivative of phi_r.

    A stride averages the responses over windows of that size before they are combined; the layer looks at no
    neighbours otherwise.

    Attributes:
      features: maps to put out.
      stride: of both axes; it must divide the maps' height and width.
      masks: number of noise maps, M.
      std: standard deviation of the noise, sigma.
      seed: of the noise.
      dtype: to compute in; None: the wider of the input's and param_dtype.
      param_dtype: of w.

    Raises:
      ValueError: a size below 1, std not above 0, or a stride that does not divide the maps' sides.
    """

    features: int
    stride: int = 1
    masks: int = 64
    std: float = 0.1
    seed: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        require_count('features', self.features)
        require_count('stride', self.stride)
        require_count('masks', self.masks)
        require_count('seed', self.seed, low=0)
        require_number('std', self.std, 0, above=True)
        _, height, width, channels = z.shape
        if height % self.stride or width % self.stride:
            raise ValueError(
                f'stride {self.stride} of {"/".join(self.path)} does not divide maps of {height} x {width}'
            )
        count = max(self.masks, channels)
        z = z.astype(self.dtype or jnp.promote_types(z.dtype, self.param_dtype))
        noise = noise_maps(self.seed, self.path, (height, width, self.masks), self.std).astype(z.dtype)
        response = jax.nn.relu(_cycle(z, count) + _cycle(noise, count))
        if self.stride > 1:
            response = nn.avg_pool(response, (self.stride, self.stride), (self.stride, self.stride))
        combine = nn.Dense(
            self.features, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype, name='combine'
        )
        return combine(response)


def noise_maps(seed: int, path: Sequence[str], shape: tuple[int, int, int], std: float) -> Array:
    """The noise maps of the layer at that path, float32 `[H, W, M]`; a constant to whatever is being traced."""
    with jax.ensure_compile_time_eval():
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32('/'.join(path).encode()))
        return std * jax.random.normal(key, shape, jnp.float32)


def perturbation(features: int, kernel: int, stride: int, **options: Any) -> nn.Module:
    """A PerturbativeConv where a network has a spatial convolution; those of one position stay as they are."""
    if kernel == 1:
        return convolution(features, kernel, stride, **options)
    return PerturbativeConv(features, stride, **options)


def _cycle(maps: Array, count: int) -> Array:
    """`[..., C]` -> `[..., count]`: channel m of the result is channel m mod C."""
    copies = -(-count // maps.shape[-1])
    return jnp.tile(maps, copies)[..., :count]
