"""What is drawn at random is drawn independently: no key serves twice."""

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax

CASES = {
    'reverse': lambda regions: rlra_jax.wire_reverse(regions, rule=rlra_jax.Mirror()),
    'direct': lambda regions: rlra_jax.wire_direct(regions, kind=rlra_jax.Dense(), rule=rlra_jax.Mirror()),
    # hidden_4 -> hidden_1 spans a source of another region: three noisy passes.
    'several passes': lambda regions: rlra_jax.wire(
        regions,
        [
            helpers.edge(source, f'hidden_{i}', rule='mirror')
            for source, i in (('output', 4), ('hidden_4', 3), ('hidden_3', 2), ('hidden_4', 1))
        ],
    ),
}


class Dropping(nn.Module):
    """Four regions behind a dropout."""

    @nn.compact
    def __call__(self, x):
        z = nn.Dropout(0.5, deterministic=False)(x)
        for i in range(1, 5):
            z = rlra_jax.Site(jnp.tanh, name=f'hidden_{i}')(nn.Dense(5, name=f'dense_{i}')(z))
        return nn.Dense(4, name='readout')(z)


@pytest.mark.parametrize('case', CASES)
def test_no_key_serves_twice(case):
    """Input noise, synapses, noisy passes, the noise of each region in them, and the model's own streams."""
    model, batch = Dropping(), helpers.make_batch()
    variables = dict(model.init({'params': jax.random.key(0), 'dropout': jax.random.key(1)}, batch['image']))
    wiring = CASES[case](apart.sites(model, batch['image']))
    update = apart.update_fn(model, wiring, input_noise=0.1, normalise=True)
    with jax.debug_key_reuse(True):
        feedback = jax.jit(lambda key: apart.init_feedback(key, model, wiring, variables, batch['image']))(
            jax.random.key(1)
        )
        jax.jit(update)(variables, feedback, batch, jax.random.key(2))


class Sees(nn.Module):
    """Logits that are the image, pixel by pixel."""

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(lambda h: h, name='hidden_1')(nn.Dense(x.shape[1], name='dense')(x))
        return nn.Dense(x.shape[1], name='readout')(z)


@pytest.mark.parametrize('std', helpers.quick([0.0, 0.3, 2.0], 0.3))
def test_input_noise_has_the_standard_deviation_that_is_asked_for(std):
    """Gaussian, of mean 0."""
    model, batch = Sees(), helpers.make_batch(size=4000, features=4)
    same = {'kernel': jnp.eye(4), 'bias': jnp.zeros(4)}
    variables = {'params': {'dense': same, 'readout': same}}
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule='fixed')
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'])
    update = apart.update_fn(model, wiring, input_noise=std)
    _, _, aux = update(variables, feedback, batch, jax.random.key(2))
    noise = np.asarray(aux.logits - batch['image'], np.float64)
    np.testing.assert_allclose(noise.mean(), 0, atol=0.03 * std + 1e-5)
    np.testing.assert_allclose(noise.std(), std, rtol=0.03, atol=1e-5)
    np.testing.assert_allclose((noise**4).mean(), 3 * std**4, rtol=0.1, atol=1e-9)


class Dropout(nn.Module):
    @nn.compact
    def __call__(self, z, _):
        return z, nn.Dropout(0.5, deterministic=False)(z)


class InTime(nn.Module):
    """A loop over time as Flax teaches it: steps share parameters, and each has a dropout of its own."""

    @nn.compact
    def __call__(self, x):
        z = jnp.ones_like(nn.Dense(50)(x))
        loop = nn.scan(Dropout, variable_broadcast='params', split_rngs={'params': False, 'dropout': True}, length=3)
        return loop()(z, None)[1].swapaxes(0, 1)


def test_steps_of_a_loop_have_dropouts_of_their_own():
    batch = helpers.make_batch()
    net = rlra_jax.regions(InTime(), batch)
    dropped, _ = net.apply(net.init(jax.random.key(0)), batch, jax.random.key(1))
    assert not any(np.array_equal(dropped[:, i], dropped[:, j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def noisy(module, batch, key):
    return module(batch['image']) + (0 if key is None else jax.random.normal(key))


@pytest.mark.parametrize(
    'call',
    [noisy, lambda module, batch, key=None: noisy(module, batch, key), lambda m, b, *, rngs=None: noisy(m, b, rngs)],
    ids=['must have it', 'may have it', 'by name'],
)
def test_a_call_gets_the_key(call):
    batch = helpers.make_batch()
    net = rlra_jax.regions(Sees(), batch, call=call)
    variables = net.init(jax.random.key(0))
    one, again, other = (net.apply(variables, batch, jax.random.key(i))[0] for i in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()
