"""Networks of units: gates, recurrence, norms, dropout."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from architectures.pieces import Conv, cut, relu
from rlra_jax import Site


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
