"""Small models of the kinds in use, marked at natural places: what synapses that follow the path must get through.

Each of `MODELS` makes (model, an input `[B, ...]`, keyword arguments of training); all have 4 classes. Sums are cut by
Sites of the identity. Biases that a normalisation or a softmax would cancel are left out: their gradient is 0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import zoo
from flax import nnx

import rlra_jax
from rlra_jax import Site
from rlra_jax.nn.perturbative import perturbation

cut = Site.of(lambda h: h)
relu = Site.of(nn.relu)
gelu = Site.of(jax.nn.gelu)
Attention = functools.partial(nn.MultiHeadDotProductAttention, 2, use_bias=False)
Conv = functools.partial(nn.Conv, use_bias=False)


def batch_norm(train: bool) -> nn.Module:
    return nn.BatchNorm(use_running_average=not train)


class PreActivationResNet(nn.Module):
    """He et al. 2016b: normalise, activate, convolve, add."""

    @nn.compact
    def __call__(self, x, train=False):
        z = cut(Conv(4, (3, 3))(x))
        for features, stride in [(4, 1), (6, 2)]:
            a = relu(batch_norm(train)(z))
            h = relu(batch_norm(train)(Conv(features, (3, 3), strides=stride)(a)))
            skip = z if stride == 1 else Conv(features, (1, 1), strides=stride)(a)
            z = cut(skip + Conv(features, (3, 3))(h))
        return nn.Dense(4)(relu(batch_norm(train)(z)).mean(axis=(1, 2)))


class DenseNet(nn.Module):
    """Huang et al. 2017: every layer reads all before it; a transition pools."""

    @nn.compact
    def __call__(self, x, train=False):
        z = [relu(batch_norm(train)(Conv(4, (3, 3))(x)))]
        for _ in range(2):
            z.append(relu(batch_norm(train)(Conv(3, (3, 3))(jnp.concatenate(z, axis=-1)))))
        h = nn.avg_pool(Conv(6, (1, 1))(jnp.concatenate(z, axis=-1)), (2, 2), (2, 2))
        z = [relu(batch_norm(train)(h))]
        z.append(relu(batch_norm(train)(Conv(3, (3, 3))(z[0]))))
        return nn.Dense(4)(jnp.concatenate(z, axis=-1).mean(axis=(1, 2)))


class Inception(nn.Module):
    """Szegedy et al. 2015: branches of unlike kernels and a max-pool side by side, and max-pools in between."""

    @nn.compact
    def __call__(self, x):
        z = relu(nn.Conv(4, (3, 3))(x))
        for _ in range(2):
            z = nn.max_pool(z, (3, 3), strides=(2, 2), padding='SAME')
            one = relu(nn.Conv(3, (1, 1))(z))
            three = relu(nn.Conv(4, (3, 3))(relu(nn.Conv(3, (1, 1))(z))))
            pooled = relu(nn.Conv(3, (1, 1))(nn.max_pool(z, (3, 3), strides=(1, 1), padding='SAME')))
            z = jnp.concatenate([one, three, pooled], axis=-1)
        return nn.Dense(4)(z.mean(axis=(1, 2)))


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


class ConvNeXt(nn.Module):
    """Liu et al. 2022: depthwise convolutions, inverted bottlenecks and a scale for each layer."""

    width: int = 4

    @nn.compact
    def __call__(self, x):
        z = cut(nn.LayerNorm()(nn.Conv(self.width, (2, 2), strides=2)(x)))
        for i in range(2):
            h = nn.LayerNorm()(nn.Conv(self.width, (3, 3), feature_group_count=self.width)(z))
            scale = self.param(f'scale_{i}', nn.initializers.constant(0.5), (self.width,))
            z = cut(z + scale * nn.Dense(self.width)(gelu(nn.Dense(4 * self.width)(h))))
        return nn.Dense(4)(nn.LayerNorm()(z.mean(axis=(1, 2))))


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


class SqueezeExcite(nn.Module):
    """Hu et al. 2018: channels weighed by what their means say, in a residual block."""

    @nn.compact
    def __call__(self, x):
        z = relu(nn.Conv(4, (3, 3))(x))
        for _ in range(2):
            h = relu(nn.Conv(4, (3, 3))(z))
            gate = nn.sigmoid(nn.Dense(4)(relu(nn.Dense(3)(h.mean(axis=(1, 2))))))
            z = relu(z + h * gate[:, None, None])
        return nn.Dense(4)(z.mean(axis=(1, 2)))


class GatedMLP(nn.Module):
    """A transformer's gated feed-forward layers (SwiGLU) with RMS norm, the Site on the gate's activation."""

    width: int = 8

    @nn.compact
    def __call__(self, x):
        z = cut(nn.Dense(self.width)(x.reshape(len(x), -1)))
        for _ in range(2):
            h = cut(nn.RMSNorm()(z))
            gated = Site(nn.silu)(nn.Dense(12)(h)) * nn.Dense(12)(h)
            z = cut(z + nn.Dense(self.width)(gated))
        return nn.Dense(4)(nn.RMSNorm()(z))


class GRU(nn.Module):
    """A gated recurrent unit over three steps, the state a Site at each."""

    @nn.compact
    def __call__(self, x):
        steps = x.reshape(len(x), 3, -1)
        state = cut(nn.Dense(6)(steps[:, 0]))
        for i in range(3):
            state, _ = nn.GRUCell(6, name=f'cell_{i}')(state, steps[:, i])
            state = cut(state)
        return nn.Dense(4)(state)


class Normed(nn.Module):
    """Convolutions and a norm of some kind, then units and the same norm."""

    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x):
        z = relu(self.norm()(Conv(4, (3, 3))(x)))
        z = relu(self.norm()(Conv(6, (3, 3), strides=2)(z)))
        z = Site(jnp.tanh)(self.norm()(nn.Dense(8, use_bias=False)(z.reshape(len(z), -1))))
        return nn.Dense(4)(z)


class Dropout(nn.Module):
    """Units that drop out between layers."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x):
        z = x.reshape(len(x), -1)
        for _ in range(3):
            z = nn.Dropout(self.rate, deterministic=False)(Site(jnp.tanh)(nn.Dense(12)(z)))
        return nn.Dense(4)(z)


class SwappedAxes(nn.Module):
    """A layer over positions whose axes have sizes that seem to fit without having to do with each other."""

    @nn.compact
    def __call__(self, x):
        z = Site(jnp.tanh)(nn.Dense(6)(x))
        z = Site(jnp.tanh)(nn.Dense(6)(z.swapaxes(1, 2)))
        return nn.Dense(4)(z.reshape(len(z), -1))


class UnitsAboveBatchNorm(nn.Module):
    """Batch normalisation in one region, none in that above."""

    @nn.compact
    def __call__(self, x):
        z = relu(nn.BatchNorm(use_running_average=False)(nn.Dense(8, use_bias=False)(x)))
        return nn.Dense(4)(relu(nn.Dense(8)(z)))


class GatedUnits(nn.Module):
    """The Site on a gate's activation; the other factor is an activity of the path."""

    @nn.compact
    def __call__(self, x):
        z = Site(jnp.tanh)(nn.Dense(12)(x))
        return nn.Dense(4)(Site(nn.silu)(nn.Dense(12)(z)) * nn.Dense(12)(z))


class StoppedGate(nn.Module):
    """A gate that `lax.stop_gradient` keeps from learning and from passing errors on."""

    @nn.compact
    def __call__(self, x):
        z = Site(jnp.tanh)(nn.Dense(12)(x))
        gate = jax.lax.stop_gradient(nn.sigmoid(nn.Dense(12)(z)))
        return nn.Dense(4)(Site(jnp.tanh)(gate * nn.Dense(12)(z)))


class NNXBlocks(nnx.Module):
    """A transformer block and a gated layer in nnx, for images of 8 x 8 x 2."""

    def __init__(self, rngs: nnx.Rngs):
        width = 6
        self.embed = nnx.Conv(2, width, (4, 4), strides=4, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)])
        self.attention = nnx.MultiHeadAttention(2, width, use_bias=False, decode=False, rngs=rngs)
        self.gate, self.up = nnx.Linear(width, 10, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)
        self.down, self.readout = nnx.Linear(10, width, rngs=rngs), nnx.Linear(width, 4, rngs=rngs)
        self.cuts = nnx.List([rlra_jax.nnx.Site(lambda h: h) for _ in range(4)])
        self.act = rlra_jax.nnx.Site(nnx.silu)

    def __call__(self, x):
        z = self.cuts[0](self.embed(x).reshape(len(x), -1, 6))
        z = self.cuts[1](z + self.attention(self.norms[0](z)))
        h = self.cuts[3](self.norms[1](z))
        z = self.cuts[2](z + self.down(self.act(self.gate(h)) * self.up(h)))
        return self.readout(z.mean(axis=1))


def images(size: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (size, *shape))


def _residual(make: Callable[..., nn.Module], blocks: Sequence[int]) -> Callable[[int], Any]:
    return lambda size: (make(blocks=blocks, classes=4, width=2), images(size, 8, 8, 2), {'train': True})


def _plain(make: Callable[[], Any], *shape: int, **kwargs: Any) -> Callable[[int], Any]:
    return lambda size: (make(), images(size, *shape), kwargs)


MODELS: dict[str, Callable[[int], Any]] = {  # batch size -> (model, x, train_kwargs)
    'mlp': _plain(zoo.InlineMLP, 4, 6, 2),
    'cnn': _plain(zoo.CNN, 4, 6, 2, train=True),
    'nnx_cnn': _plain(lambda: zoo.NNXCNN(nnx.Rngs(0)), 4, 6, 2),
    'group_resnet': _plain(lambda: zoo.ResNet(act=relu), 8, 8, 2),
    'resnet18': _residual(rlra_jax.nn.ResNet18, (1, 1, 1, 1)),
    'resnet50': _residual(functools.partial(rlra_jax.nn.ResNet50, stem='imagenet'), (1, 1, 1)),
    'presnet18': _residual(  # with as many masks as channels, as the paper's
        functools.partial(rlra_jax.nn.ResNet18, conv=functools.partial(perturbation, masks=2)), (1, 1)
    ),
    'preactivation_resnet': _plain(PreActivationResNet, 8, 8, 2, train=True),
    'densenet': _plain(DenseNet, 8, 8, 2, train=True),
    'inception': _plain(Inception, 8, 8, 2),
    'vit': _plain(ViT, 8, 8, 2),
    'mixer': _plain(Mixer, 8, 8, 2),
    'convnext': _plain(ConvNeXt, 8, 8, 2),
    'swin': _plain(Swin, 8, 8, 2),
    'squeeze_excite': _plain(SqueezeExcite, 6, 6, 2),
    'gated_mlp': _plain(GatedMLP, 9),
    'gru': _plain(GRU, 12),
    'group_norm': _plain(lambda: Normed(functools.partial(nn.GroupNorm, 2)), 6, 6, 2),
    'layer_norm': _plain(lambda: Normed(nn.LayerNorm), 6, 6, 2),
    'batch_norm': _plain(lambda: Normed(functools.partial(nn.BatchNorm, False)), 6, 6, 2),
    'rms_norm': _plain(lambda: Normed(nn.RMSNorm), 6, 6, 2),
    'dropout': _plain(Dropout, 9),
    'axes_swapped_6': _plain(SwappedAxes, 6, 3),
    'axes_swapped_12': _plain(SwappedAxes, 12, 3),
    'units_above_batch_norm': _plain(UnitsAboveBatchNorm, 6),
    'gated_units': _plain(GatedUnits, 8),
    'stopped_gate': _plain(StoppedGate, 8),
    'nnx_blocks': _plain(lambda: NNXBlocks(nnx.Rngs(0)), 8, 8, 2),
}


def start(model: Any, x: jax.Array, train_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The variables of a linen or an nnx model."""
    if isinstance(model, nnx.Module):
        return rlra_jax.nnx.variables(model)
    return dict(jax.jit(functools.partial(model.init, **train_kwargs))(jax.random.key(1), x))
