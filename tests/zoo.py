"""Models as others write them: rlra_jax is imported to mark activations, and for nothing else."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from rlra_jax import Site
from rlra_jax.model.nnx import Site as NNXSite


class InlineMLP(nn.Module):
    """Dense layers written inline, of unlike widths and activations."""

    @nn.compact
    def __call__(self, x):
        z = Site(jnp.tanh)(nn.Dense(9)(x.reshape(x.shape[0], -1)))
        z = Site(nn.relu)(nn.Dense(7)(z))
        return nn.Dense(4)(z)


class Block(nn.Module):
    """A basic residual block; knows nothing of rlra_jax."""

    features: int
    stride: int
    act: Callable

    @nn.compact
    def __call__(self, x):
        z = self.act(nn.Conv(self.features, (3, 3), strides=self.stride)(x))
        h = nn.GroupNorm(2)(nn.Conv(self.features, (3, 3))(z))
        if x.shape != h.shape:
            x = nn.Conv(self.features, (1, 1), strides=self.stride)(x)
        return self.act(h + x)


class ResNet(nn.Module):
    """A residual network with a field for its activation; knows nothing of rlra_jax."""

    act: Callable = nn.relu

    @nn.compact
    def __call__(self, x):
        z = self.act(nn.Conv(4, (3, 3), name='stem')(x))
        for i, (features, stride) in enumerate([(4, 1), (6, 2)]):
            z = Block(features, stride, self.act, name=f'block_{i}')(z)
        return nn.Dense(4, name='readout')(z.mean(axis=(1, 2)))


class CNN(nn.Module):
    """The linen twin of NNXCNN."""

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.BatchNorm(use_running_average=not train, name='norm')(nn.Conv(3, (3, 3), name='conv_1')(x))
        z = Site(nn.relu, name='act_1')(h)
        z = Site(jnp.tanh, name='act_2')(nn.Conv(5, (3, 3), strides=2, name='conv_2')(z))
        return nn.Dense(4, name='readout')(z.reshape(z.shape[0], -1))


class NNXCNN(nnx.Module):
    """A convolutional network in nnx, for images of 4 x 6 x 2."""

    def __init__(self, rngs):
        self.conv_1 = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.act_1 = NNXSite(nnx.relu)
        self.conv_2 = nnx.Conv(3, 5, (3, 3), strides=2, rngs=rngs)
        self.act_2 = NNXSite(jnp.tanh)
        self.readout = nnx.Linear(2 * 3 * 5, 4, rngs=rngs)

    def __call__(self, x):
        z = self.act_1(self.norm(self.conv_1(x)))
        z = self.act_2(self.conv_2(z))
        return self.readout(z.reshape(z.shape[0], -1))


class Encoder(nn.Module):
    """A pre-norm transformer encoder on rows of an image; Sites of the identity cut its residual stream."""

    width: int = 8
    depth: int = 2

    @nn.compact
    def __call__(self, x):
        cut = Site.of(lambda h: h)
        tokens = x.reshape(x.shape[0], x.shape[1], -1)
        positions = self.param('positions', nn.initializers.normal(0.1), (tokens.shape[1], self.width))
        z = cut(nn.Dense(self.width, name='embed')(tokens) + positions)
        for _ in range(self.depth):
            attention = nn.MultiHeadDotProductAttention(2, use_bias=False)  # a key's bias cancels in the softmax
            z = cut(z + attention(nn.LayerNorm()(z)))
            hidden = Site(jax.nn.gelu)(nn.Dense(2 * self.width)(nn.LayerNorm()(z)))
            z = cut(z + nn.Dense(self.width)(hidden))
        return nn.Dense(4, name='readout')(nn.LayerNorm()(z).mean(axis=1))
