"""Models with layers in loops that JAX traces once, and the same layers one by one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from rlra_jax import Site
from rlra_jax.nnx import Site as NNXSite

WIDTH = 6


class Block(nn.Module):
    """A residual block of two regions, or a layer of one."""

    residual: bool = True

    @nn.compact
    def __call__(self, z, _=None):
        z_act = Site(jnp.tanh, name='act')(nn.Dense(WIDTH, name='up')(z))
        if not self.residual:
            return z_act, None
        return Site(lambda h: h, name='sum')(z + nn.Dense(WIDTH, name='down')(z_act)), None


class Layers(nn.Module):
    """Blocks between a stem and a readout: 'layers', scanned, or 'block_0' and so on."""

    depth: int = 3
    scanned: bool = True
    residual: bool = True
    wrap: object = lambda block: block  # such as nn.remat
    axis: int = 0  # of a parameter, along which layers have their own

    @nn.compact
    def __call__(self, x):
        z, block = Site(jnp.tanh, name='stem_act')(nn.Dense(WIDTH, name='stem')(x)), self.wrap(Block)
        if self.scanned:
            split = {'variable_axes': {'params': self.axis}, 'split_rngs': {'params': True}}
            z, _ = nn.scan(block, length=self.depth, **split)(self.residual, name='layers')(z, None)
        for i in range(0 if self.scanned else self.depth):
            z, _ = block(self.residual, name=f'block_{i}')(z)
        return nn.Dense(4, name='readout')(z)


class Cell(nn.RNNCellBase):
    """An Elman cell."""

    @nn.compact
    def __call__(self, state, x):
        inward, across = nn.Dense(WIDTH, name='input'), nn.Dense(WIDTH, use_bias=False, name='recurrent')
        state = Site(jnp.tanh, name='state')(inward(x) + across(state))
        return state, state

    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], WIDTH))

    @property
    def num_feature_axes(self):
        return 1


class Recurrent(nn.Module):
    """A cell over rows, read at the last or at all of them."""

    every_step: bool = False
    scanned: bool = True

    @nn.compact
    def __call__(self, x):
        cell = Cell(name='cell')
        if self.scanned:
            states = nn.RNN(cell, name='rnn')(x)
        else:
            states, state = [], cell.initialize_carry(None, x[:, 0].shape)
            for row in x.swapaxes(0, 1):
                state, out = cell(state, row)
                states.append(out)
            states = jnp.stack(states, axis=1)
        return nn.Dense(4, name='readout')(states if self.every_step else states[:, -1])


class Deep(nn.Module):
    """Scanned layers, each of them recurrent: a loop in a loop."""

    @nn.compact
    def __call__(self, x):
        z = Site(jnp.tanh, name='stem_act')(nn.Dense(WIDTH, name='stem')(x))
        z, _ = nn.scan(Layer, variable_axes={'params': 0}, split_rngs={'params': True}, length=2)(name='layers')(
            z, None
        )
        return nn.Dense(4, name='readout')(z[:, -1])


class Layer(nn.Module):
    @nn.compact
    def __call__(self, z, _):
        return nn.RNN(Cell(name='cell'), name='rnn')(z), None


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.up, self.act = nnx.Linear(WIDTH, WIDTH, rngs=rngs), NNXSite(jnp.tanh)

    def __call__(self, z):
        return self.act(self.up(z))


class NNXLayers(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs, depth=3):
        self.stem, self.stem_act = nnx.Linear(7, WIDTH, rngs=rngs), NNXSite(jnp.tanh)
        self.layers = nnx.vmap(NNXBlock)(rngs.split(depth))
        self.readout = nnx.Linear(WIDTH, 4, rngs=rngs)

    def __call__(self, x):
        scan = nnx.scan(lambda z, block: block(z), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.readout(scan(self.stem_act(self.stem(x)), self.layers))


class Stream(nn.Module):
    """A residual stream that no Site cuts, from iteration to iteration."""

    @nn.compact
    def __call__(self, z, _):
        return z + nn.Dense(6, name='down')(Site(jnp.tanh, name='act')(nn.Dense(6, name='up')(z))), None


class Leaking(nn.Module):
    """A layer of one region, whose pre-activation leaks into that of the next iteration."""

    @nn.compact
    def __call__(self, z, _):
        h = nn.Dense(WIDTH, name='inward')(z) + 0.5 * z
        return h, Site(jnp.tanh, name='act')(h)


class Streamed(nn.Module):
    """Scanned layers that are read at their end, or all of them."""

    layer: type = Stream

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(self.layer, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
        z, all_z = layers(name='layers')(Site(jnp.tanh)(nn.Dense(WIDTH)(x)), None)
        return nn.Dense(4, name='readout')(z if all_z is None else all_z.mean(axis=0))


class Twice(nn.Module):
    """A layer that two regions of an iteration read."""

    @nn.compact
    def __call__(self, z, _):
        h = nn.Dense(6, name='first')(z)
        return Site(jnp.tanh, name='top')(h + nn.Dense(6, name='second')(Site(jnp.tanh, name='act')(h))), None


def rows(steps=4, size=5, every_step=False):
    """A batch of sequences."""
    label = jnp.arange(size)[:, None] + jnp.arange(steps) if every_step else jnp.arange(size)
    return {'image': jax.random.normal(jax.random.key(0), (size, steps, 3)), 'label': label % 4}
