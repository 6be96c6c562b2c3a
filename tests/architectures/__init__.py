"""Small models of the kinds in use, marked at natural places: what synapses that follow the path must get through.

Each of `MODELS` makes (model, an input `[B, ...]`, keyword arguments of training); all have 4 classes. Those of
`OTHERS` are called on other batches, have a loss of their own, or come from the package. `make` binds any of them. Sums
are cut by Sites of the identity. Biases that a normalisation or a softmax would cancel are left out.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import loop_models
import optax
import zoo
from flax import nnx

import rlra_jax
from architectures.convolutional import (
    ConvNeXt,
    DenseNet,
    EfficientNet,
    Inception,
    PreActivationResNet,
    SqueezeExcite,
)
from architectures.images import VAE, UNet
from architectures.of_nnx import NNXBlocks
from architectures.pieces import relu
from architectures.positions import Mixer, Swin, ViT
from architectures.sequences import LSTM, GraphNet, LanguageModel, RotaryModel, sentences
from architectures.units import (
    GRU,
    Dropout,
    GatedMLP,
    GatedUnits,
    Normed,
    StoppedGate,
    SwappedAxes,
    UnitsAboveBatchNorm,
)
from rlra_jax.nn.perturbative import perturbation


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
    'efficientnet': _plain(EfficientNet, 6, 6, 2, train=True),
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


class Made(NamedTuple):
    """A model bound to its call, and what its learners take besides."""

    net: Any
    batch: Any
    loss: Any = rlra_jax.softmax_cross_entropy


def make(name: str, size: int) -> Made:
    """A model of this zoo on a batch of so many examples."""
    if name in OTHERS:
        return OTHERS[name](size)
    model, x, kwargs = MODELS[name](size)
    return _made(
        model, {'image': x, 'label': jnp.arange(size) % 4}, lambda module, batch: module(batch['image'], **kwargs)
    )


def _made(model: Any, batch: Any, call: Any, loss: Any = rlra_jax.softmax_cross_entropy) -> Made:
    return Made(rlra_jax.regions(model, batch, call=call), batch, loss)


def _next_words(model: Any, size: int, **kwargs: Any) -> Made:
    """Of sentences that end with 0, which is not asked for."""

    def loss(outputs: jax.Array, batch: Any) -> jax.Array:
        counts = batch['label'] > 0
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch['label'])
        return (losses * counts).sum(axis=1) / counts.sum(axis=1)

    words = sentences(size, 7)
    batch = {'tokens': words[:, :-1], 'label': words[:, 1:]}
    return _made(model, batch, lambda module, batch: module(batch['tokens'], **kwargs), loss)


def _lstm(size: int) -> Made:
    batch = {'tokens': sentences(size), 'label': jnp.arange(size) % 4}
    return _made(LSTM(), batch, lambda module, batch: module(batch['tokens']))


def _vae(size: int) -> Made:
    def loss(outputs: Any, batch: Any) -> jax.Array:
        mean, spread = outputs['mean'], outputs['spread']
        pixels = optax.sigmoid_binary_cross_entropy(outputs['pixels'], batch['image']).sum(axis=1)
        return pixels + ((jnp.exp(spread) + mean**2 - 1 - spread) / 2).sum(axis=1)

    return _made(VAE(), {'image': nn.sigmoid(images(size, 10))}, lambda module, batch: module(batch['image']), loss)


def _unet(size: int) -> Made:
    x = images(size, 8, 8, 2)
    return _made(UNet(), {'image': x, 'label': jnp.int32(x[..., 0] > 0)}, lambda module, batch: module(batch['image']))


def _graphs(size: int) -> Made:
    there = jnp.arange(6) < 4 + jnp.arange(size)[:, None] % 3
    joined = jax.random.bernoulli(jax.random.key(1), 0.4, (size, 6, 6)) & there[:, None] & there[:, :, None]
    batch = {'nodes': images(size, 6, 5), 'joined': jnp.float32(joined), 'there': there, 'label': jnp.arange(size) % 4}
    return _made(GraphNet(), batch, lambda module, batch: module(batch['nodes'], batch['joined'], batch['there']))


def _image(make: Callable[[], Any], *shape: int) -> Callable[[int], Made]:
    def made(size: int) -> Made:
        batch = {'image': images(size, *shape), 'label': jnp.arange(size) % 4}
        return _made(make(), batch, lambda module, batch: module(batch['image']))

    return made


_SMALL = {'classes': 9, 'context': 6, 'width': 8, 'depth': 2, 'heads': 2}
OTHERS: dict[str, Callable[[int], Made]] = {  # batch size -> Made
    'nn_transformer': lambda size: _next_words(rlra_jax.nn.Transformer(**_SMALL), size),
    'nn_transformer_bfloat16': lambda size: _next_words(rlra_jax.nn.Transformer(**_SMALL, dtype=jnp.bfloat16), size),
    'nn_vit': _image(lambda: rlra_jax.nn.ViT(classes=4, patch=2, width=8, depth=2, heads=2), 8, 4, 3),
    'nn_elman': _image(lambda: rlra_jax.nn.Elman(width=8, classes=4), 5, 4),
    'nn_gru': _image(lambda: rlra_jax.nn.GRU(width=8, classes=4), 5, 4),
    'language_model': lambda size: _next_words(LanguageModel(), size, train=True),
    'rotary_model': lambda size: _next_words(RotaryModel(), size),
    'lstm': _lstm,
    'graph_net': _graphs,
    'vae': _vae,
    'unet': _unet,
    'scanned_layers': _image(loop_models.Layers, 7),
    'scanned_steps': _image(loop_models.Recurrent, 5, 4),
}
