"""Models whose activations are Sites, and the activation functions of the paper."""

from collections.abc import Callable

import flax.linen as nn

from rlra_jax.model.site import Site
from rlra_jax.nn.activations import ACTIVATIONS
from rlra_jax.nn.cnn import CNN
from rlra_jax.nn.fast_resnet import FastResNet
from rlra_jax.nn.mlp import MLP, ResidualMLP
from rlra_jax.nn.perturbative import PerturbativeConv
from rlra_jax.nn.readouts import with_readouts
from rlra_jax.nn.recurrent import GRU, Elman
from rlra_jax.nn.resnet import PResNet18, ResNet, ResNet18, ResNet50
from rlra_jax.nn.transformer import Transformer, ViT
from rlra_jax.validate import Table

MODELS: dict[str, Callable[..., nn.Module]] = Table(
    'model',
    {
        'cnn': CNN,
        'elman': Elman,
        'fast_resnet': FastResNet,
        'gru': GRU,
        'mlp': MLP,
        'presnet18': PResNet18,
        'residual_mlp': ResidualMLP,
        'resnet18': ResNet18,
        'resnet50': ResNet50,
        'transformer': Transformer,
        'vit': ViT,
    },
)

__all__ = [
    'ACTIVATIONS',
    'CNN',
    'GRU',
    'MLP',
    'MODELS',
    'Elman',
    'FastResNet',
    'PResNet18',
    'PerturbativeConv',
    'ResNet',
    'ResNet18',
    'ResNet50',
    'ResidualMLP',
    'Site',
    'Transformer',
    'ViT',
    'with_readouts',
]
