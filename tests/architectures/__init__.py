"""Small models of the kinds in use, marked at natural places: what synapses that follow the path must get through.

Each of `MODELS` makes (model, an input `[B, ...]`, keyword arguments of training); all have 4 classes. Sums are cut by
Sites of the identity. Biases that a normalisation or a softmax would cancel are left out: their gradient is 0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import zoo
from flax import nnx

import rlra_jax
from architectures.convolutional import ConvNeXt, DenseNet, Inception, PreActivationResNet, SqueezeExcite
from architectures.of_nnx import NNXBlocks
from architectures.pieces import relu
from architectures.positions import Mixer, Swin, ViT
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
