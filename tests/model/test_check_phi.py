import apart
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.model.check_phi import check_phi


@jax.custom_vjp
def clipped(h):
    return jnp.tanh(h)


clipped.defvjp(lambda h: (jnp.tanh(h), h), lambda h, g: (jnp.where(jnp.abs(h) < 1, g, 0.0),))

FINE = {
    'tanh': jnp.tanh,
    'relu': nn.relu,
    'gelu': nn.gelu,
    'selu': nn.selu,
    'hard_swish': nn.hard_swish,
    'sign': jnp.sign,
    'clipped': clipped,
    'identity': lambda h: h,
    'jitted': jax.jit(lambda h: jnp.where(h > 0, h, 0.1 * jnp.expm1(h))),
    'softmax': nn.softmax,
    'unit_length': lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True),
    'standardised': nn.standardize,
    'pairs_swapped': lambda h: h.reshape(len(h), 4, 2)[..., ::-1].reshape(h.shape),
    'winner': lambda h: nn.one_hot(h.argmax(-1), h.shape[-1]),
}
MIXED = {
    'roll': lambda h: jnp.roll(jnp.tanh(h), 1, -1),
    'cumsum': lambda h: jnp.cumsum(jnp.tanh(h), -1),
    'channel_shuffle': lambda h: nn.relu(h).reshape(len(h), 2, 4).swapaxes(1, 2).reshape(len(h), 8),
    'log_softmax': nn.log_softmax,
    'swap_then_scale': lambda h: h[..., ::-1] * jnp.arange(8.0),
    'centred_softly': lambda h: jnp.tanh(h - h.mean(-1, keepdims=True)),
}


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', FINE)
def test_lets_pass_what_hands_errors_back_to_their_units(name, dtype):
    check_phi('act', FINE[name], jnp.zeros((3, 8), dtype))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', MIXED)
def test_refuses_what_mixes_units(name, dtype):
    with pytest.raises(ValueError, match=r"phi of Site 'act' mixes units.*mix outside the Site"):
        check_phi('act', MIXED[name], jnp.zeros((3, 8), dtype))


class Net(nn.Module):
    """An activation function that closes over an activity."""

    phi: str

    @nn.compact
    def __call__(self, x):
        shift = x.sum(axis=1, keepdims=True)
        close = {
            'softmax': lambda h: nn.softmax(h + shift),
            'gate': lambda h: h * nn.sigmoid(shift),
            'roll': lambda h: jnp.roll(h + shift, 1, -1),
            'mixed_outside': jnp.tanh,
        }
        z = rlra_jax.Site(close[self.phi], name='act')(nn.Dense(8)(x))
        return nn.Dense(4)(jnp.roll(z, 1, -1) if self.phi == 'mixed_outside' else z)


@pytest.mark.parametrize('name', ['softmax', 'gate', 'mixed_outside', 'roll'])
def test_wirings_are_made_for_models_whose_phi_fits(name):
    model, x = Net(name), jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)), jnp.float32)
    variables = model.init(jax.random.key(0), x)
    wiring = rlra_jax.wire_chain(apart.sites(model, x))

    def start():
        return apart.init_feedback(jax.random.key(1), model, wiring, variables, x)

    if name == 'roll':
        with pytest.raises(ValueError, match=r"phi of Site 'act' mixes units"):
            start()
    else:
        start()
        jax.eval_shape(start)
