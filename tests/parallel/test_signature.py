"""Regions that JAX prints alike and that yet differ: none may run as the other."""

import apart
import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax import Site

X = jax.random.normal(jax.random.key(0), (6, 8))
BATCH = {'image': X, 'label': jnp.arange(6) % 4}


class Net(nn.Module):
    """Three layers, with functions of their own before and in their activations."""

    before: tuple
    phi: tuple

    @nn.compact
    def __call__(self, x):
        for before, phi in zip(self.before, self.phi, strict=True):
            x = Site(phi)(before(nn.Dense(8)(x)))
        return nn.Dense(4)(x)


def scaled_by_a_constant_inside_jit(i):
    scale = jnp.full((8,), i + 1.0)
    return jax.jit(lambda h: jnp.tanh(scale * h))


def with_a_derivative_of_its_own(i):
    @jax.custom_vjp
    def f(h):
        return h

    f.defvjp(lambda h: (h, None), lambda saved, g: ((i + 1.0) * g,))
    return f


def with_a_callback(i):
    def phi(h):
        shape = jax.ShapeDtypeStruct(h.shape, h.dtype)
        return jax.pure_callback(lambda h: np.tanh((i + 1) * h), shape, jax.lax.stop_gradient(h))

    return phi


def same(i):
    return lambda h: h


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Site(jnp.tanh)(nn.Dense(8)(x))


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.remat(Block)()(nn.remat(Block)()(x)))


def layers(before, phi):
    return Net(*(tuple(make(i) for i in range(3)) for make in (before, phi)))


@pytest.mark.parametrize(
    'model',
    [
        layers(same, scaled_by_a_constant_inside_jit),
        layers(with_a_derivative_of_its_own, lambda i: jnp.tanh),
        layers(same, with_a_callback),
        Remat(),
    ],
)
def test_streaming_equals_the_plain_step(model):
    variables, rates = dict(model.init(jax.random.key(0), X)), (optax.sgd(0.1), optax.sgd(0.1))
    wiring = rlra_jax.wire_direct(apart.sites(model, X), rule=rlra_jax.KolenPollack())
    plain = apart.make_train_step(apart.rec_lra(model, X, wiring=wiring), *rates)
    expected, _ = jax.jit(plain.update)(plain.init(jax.random.key(1), variables, BATCH), BATCH, jax.random.key(2))
    stream = apart.stream_step(model, wiring, variables, X, *rates)
    state, _ = jax.jit(stream.update)(stream.init(jax.random.key(1), variables, BATCH), BATCH, jax.random.key(2))
    chex.assert_trees_all_close(stream.unpack(state).variables, expected.variables, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('phi', [nn.relu, nn.gelu, jax.jit(jnp.tanh), with_a_derivative_of_its_own(1)])
def test_regions_that_share_their_functions_are_equal(phi):
    model = Net((phi,) * 3, (phi,) * 3)
    parts = apart.dissect(model, dict(model.init(jax.random.key(0), X)), X, jax.random.key(1))
    assert len({part.signature for name, part in parts.items() if name != 'output'}) == 1
