"""Networks whose positions hear each other: by attention, or by layers over positions."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from architectures.pieces import Attention, cut, gelu


class ViT(nn.Module):
    """Dosovitskiy et al. 2021: patches, a class token, positions, pre-norm encoder blocks."""

    width: int = 8

    @nn.compact
    def __call__(self, x):
        patches = nn.Conv(self.width, (4, 4), strides=4, padding='VALID')(x).reshape(len(x), -1, self.width)
        token = self.param('token', nn.initializers.normal(0.5), (1, 1, self.width))
        z = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), patches], axis=1)
        z = cut(z + self.param('positions', nn.initializers.normal(0.5), z.shape[1:]))
        for _ in range(2):
            z = cut(z + Attention()(nn.LayerNorm()(z)))
            z = cut(z + nn.Dense(self.width)(gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(z)))))
        return nn.Dense(4)(nn.LayerNorm()(z)[:, 0])


class Mixer(nn.Module):
    """Tolstikhin et al. 2021: layers over positions and over channels in turn."""

    width: int = 6

    @nn.compact
    def __call__(self, x):
        z = cut(nn.Conv(self.width, (2, 2), strides=2)(x).reshape(len(x), -1, self.width))
        tokens = z.shape[1]
        for _ in range(2):
            mixed = nn.Dense(tokens, use_bias=False)(gelu(nn.Dense(10)(nn.LayerNorm()(z).swapaxes(1, 2))))
            z = cut(z + mixed.swapaxes(1, 2))
            z = cut(z + nn.Dense(self.width)(gelu(nn.Dense(12)(nn.LayerNorm()(z)))))
        return nn.Dense(4)(nn.LayerNorm()(z).mean(axis=1))


class WindowAttention(nn.Module):
    """Swin's: heads within windows, with a learned bias for each relative position."""

    width: int
    window: int

    @nn.compact
    def __call__(self, z):
        n, w, half = len(z), self.window, self.width // 2
        side = z.shape[1] // w
        windows = z.reshape(n, side, w, side, w, self.width).swapaxes(2, 3).reshape(n, side**2, w * w, self.width)
        q, k, v = jnp.moveaxis(nn.DenseGeneral((3, 2, half), use_bias=False)(windows), -3, 0)
        place = np.stack(np.meshgrid(*2 * [np.arange(w)], indexing='ij'), -1).reshape(-1, 2)
        apart = place[:, None] - place + w - 1
        table = self.param('relative', nn.initializers.normal(0.5), (2 * w - 1, 2 * w - 1, 2))
        bias = jnp.moveaxis(table[apart[..., 0], apart[..., 1]], -1, 0)
        pattern = nn.softmax(jnp.einsum('bwqhc,bwkhc->bwhqk', q, k) / np.sqrt(half) + bias)
        heads = jnp.einsum('bwhqk,bwkhc->bwqhc', pattern, v)
        out = nn.DenseGeneral(self.width, axis=(-2, -1))(heads)
        return out.reshape(n, side, side, w, w, self.width).swapaxes(2, 3).reshape(z.shape)


class Swin(nn.Module):
    """Liu et al. 2021: attention in windows, shifted in every other block."""

    width: int = 6

    @nn.compact
    def __call__(self, x):
        z = cut(nn.LayerNorm()(nn.Conv(self.width, (2, 2), strides=2)(x)))
        for shift in (0, 1):
            h = jnp.roll(nn.LayerNorm()(z), (-shift, -shift), (1, 2))
            z = cut(z + jnp.roll(WindowAttention(self.width, 2)(h), (shift, shift), (1, 2)))
            z = cut(z + nn.Dense(self.width)(gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(z)))))
        return nn.Dense(4)(nn.LayerNorm()(z).mean(axis=(1, 2)))
