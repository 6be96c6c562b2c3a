"""Paths of Flax and JAX with operations of many kinds: over their own weights they are JAX's own transpose."""

import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from other_weights import assert_near, like, passing


class Residual(nn.Module):
    @nn.compact
    def __call__(self, z, _):
        return z + nn.tanh(nn.Dense(5)(nn.LayerNorm()(z))), None


class Layers(nn.Module):
    """nn.scan over layers."""

    @nn.compact
    def __call__(self, z):
        scan = nn.scan(Residual, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
        return scan()(z, None)[0]


class Reverse(nn.Module):
    """Both directions over time, of which the last state counts."""

    @nn.compact
    def __call__(self, z):
        both = nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.LSTMCell(3)))(z)
        return both.mean(axis=1)


class Embedding(nn.Module):
    """A table that is read by whole numbers, and again as the readout."""

    @nn.compact
    def __call__(self, z):
        embed = nn.Embed(7, 5)
        return embed.attend(z * embed(jnp.arange(z.shape[1]) % 7))


class Odd(nn.Module):
    """Parameters of no, one, three and four axes, each with a part in what comes back."""

    @nn.compact
    def __call__(self, z):
        draw = functools.partial(self.param, init_fn=nn.initializers.normal(0.5))
        z = jnp.einsum('btc,tcd->btd', z, draw('three', shape=(*z.shape[1:], 4)))
        z = jnp.einsum('btd,tdhc->bhc', nn.tanh(z), draw('four', shape=(*z.shape[1:], 2, 3)))
        return jnp.exp(draw('none', shape=())) * z * draw('one', shape=(3,))


class SpectralNorm(nn.Module):
    @nn.compact
    def __call__(self, z):
        normed = nn.SpectralNorm(nn.Dense(4), n_steps=2)
        return normed(z, update_stats=True)


@jax.custom_vjp
def clipped(h):
    return jnp.tanh(h)


clipped.defvjp(lambda h: (jnp.tanh(h), h), lambda h, g: (jnp.where(jnp.abs(h) < 1, g, 0.0),))


@jax.custom_jvp
def stepped(h):
    return jnp.sign(h)


stepped.defjvp(lambda h, dh: (jnp.sign(h[0]), jnp.exp(-jnp.abs(h[0])) * dh[0]))


def sequential(*parts):
    return nn.Sequential(list(parts))


MODULES = {
    'weight_norm': lambda: nn.WeightNorm(nn.Dense(4)),
    'weight_norm_conv': lambda: nn.WeightNorm(nn.Conv(4, (2,))),
    'spectral_norm': SpectralNorm,
    'dense_general': lambda: sequential(nn.DenseGeneral((2, 3)), nn.tanh, nn.DenseGeneral(4, axis=(-2, -1))),
    'einsum': lambda: nn.Einsum((3, 5, 4), 'btc,tcd->btd'),
    'attention': lambda: nn.MultiHeadDotProductAttention(1),
    'embed': Embedding,
    'odd': Odd,
    'rnn': lambda: nn.RNN(nn.SimpleCell(4)),
    'bidirectional': Reverse,
    'scan': Layers,
    'remat': lambda: nn.remat(Layers)(),
    'conv_transpose': lambda: nn.ConvTranspose(4, (3,), strides=(2,)),
    'custom_vjp': lambda: sequential(nn.Dense(6), clipped, nn.Dense(4)),
    'custom_jvp': lambda: sequential(nn.Dense(6), stepped, nn.Dense(4)),
    'relu6': lambda: sequential(nn.Dense(6), nn.relu6, nn.Dense(4)),
    'sorted': lambda: sequential(nn.Dense(6), functools.partial(jnp.sort, axis=1), nn.Dense(4)),
    'group_norm': lambda: sequential(nn.Dense(6), nn.GroupNorm(2), nn.Dense(4)),
    'while': lambda: sequential(
        nn.Dense(6), lambda h: lax.fori_loop(0, 3, lambda i, h: jnp.sin(h) + h, h), nn.Dense(4)
    ),
}


@pytest.mark.parametrize('name', helpers.quick(MODULES, *list(MODULES)[::3]))
def test_over_its_own_weights_it_is_the_transpose(name):
    module, z = MODULES[name](), jax.random.normal(jax.random.key(0), (2, 3, 5))
    variables = jax.jit(module.init)(jax.random.key(1), z)
    rest, params = {k: v for k, v in variables.items() if k != 'params'}, like(variables['params'], 2)

    def run(params, z):
        return module.apply({'params': params, **rest}, z, mutable=list(rest))[0]

    @jax.jit
    def pulls(params, E, z, cotangent):
        back = passing(run, params, z)
        over = [back.pull(back.weights(own), cotangent)['z'] for own in (params, E)]
        return *over, jax.vjp(lambda z: run(params, z), z)[1](cotangent)[0]

    cotangent = jax.random.normal(jax.random.key(3), jax.eval_shape(run, params, z).shape)
    own, other, true = pulls(params, like(params, 4), z, cotangent)
    assert_near(own, true)
    assert float(jnp.abs(other - true).max()) > 0.1 * float(jnp.abs(true).max())
