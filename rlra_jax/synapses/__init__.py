"""Error synapses: how an error travels back over an edge."""

from rlra_jax.synapses.channel import Channel
from rlra_jax.synapses.conv_transpose import ConvTranspose
from rlra_jax.synapses.dense import Dense
from rlra_jax.synapses.each import Each
from rlra_jax.synapses.grid import Grid
from rlra_jax.synapses.path import Path
from rlra_jax.synapses.token import Token

__all__ = ['Channel', 'ConvTranspose', 'Dense', 'Each', 'Grid', 'Path', 'Token']
