"""Models whose activations are Sites, and the activation functions of the paper."""

from rlra_jax.nn.activations import ACTIVATIONS
from rlra_jax.nn.mlp import MLP, ResidualMLP
from rlra_jax.site import Site

MODELS = {'mlp': MLP, 'residual_mlp': ResidualMLP}

__all__ = ['ACTIVATIONS', 'MLP', 'MODELS', 'ResidualMLP', 'Site']
