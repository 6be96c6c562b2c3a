import contextlib

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from apart import forward

import rlra_jax
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.propagate import _warn_of_fading, propagate


def test_displacements_of_several_edges_add_up():
    """Each edge contributes its own d, and the target's error follows from their sum."""
    model, variables, batch = helpers.make_mlp(depth=3)
    edges = [
        helpers.edge('output', 'hidden_3', rule='fixed'),
        helpers.edge('hidden_3', 'hidden_2', rule='fixed'),
        helpers.edge('output', 'hidden_1', rule='kp'),
        helpers.edge('hidden_2', 'hidden_1', rule='hebbian'),
    ]
    wiring = rlra_jax.wire(apart.sites(model, batch['image']), edges)
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'], std=1.0)
    seen = forward(model, variables, batch['image'])
    e = jax.nn.softmax(seen.h['output']) - jax.nn.one_hot(batch['label'], 4)
    signals = propagate(wiring, feedback.synapses, seen.h, seen.phi, {'output': e}, Options(beta=0.5))

    np.testing.assert_allclose(signals.y['output'], seen.h['output'] - e)
    np.testing.assert_array_equal(signals.z['output'], seen.h['output'])
    E = feedback.synapses[2]
    own = {name: signals.e[name.split('->')[0]] @ E[name] for name in ('output->hidden_1', 'hidden_2->hidden_1')}
    for name, d in own.items():
        np.testing.assert_allclose(signals.d[name], d, rtol=1e-5, atol=1e-6)
    h = seen.h['hidden_1']
    np.testing.assert_allclose(signals.e['hidden_1'], jnp.tanh(h) - jnp.tanh(h - 0.5 * sum(own.values())), atol=1e-6)

    grads, _, _ = apart.update_fn(model, wiring, beta=0.5)(variables, feedback, batch, jax.random.key(0))
    hebbian = -signals.e['hidden_2'].T @ own['hidden_2->hidden_1'] / 12
    np.testing.assert_allclose(grads.synapses[2]['hidden_2->hidden_1'], hebbian, atol=1e-6)
    kp = signals.e['output'].T @ signals.z['hidden_1'] / 12
    np.testing.assert_allclose(grads.synapses[2]['output->hidden_1'], kp, atol=1e-6)


def test_bfloat16_activity_keeps_float32_errors():
    model, variables, batch = helpers.make_mlp(depth=3, dtype=jnp.bfloat16)
    wiring = helpers.make_wiring(model, batch['image'], 'chain', rule='fixed')
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'], std=0.5)
    grads, _, aux = apart.update_fn(model, wiring, beta=0.01)(variables, feedback, batch, jax.random.key(0))
    assert aux.loss.dtype == aux.discrepancy.dtype == jnp.float32
    assert grads.params['dense_1']['kernel'].dtype == jnp.bfloat16
    assert np.any(grads.params['dense_1']['kernel'])


def test_dx_descends_the_discrepancy_of_its_own_region():
    """Two edges into one region: each one's update is the derivative of ||z - y||^2 with the other standing still."""
    with jax.enable_x64(True):
        model, variables, batch = helpers.make_mlp(depth=2, dtype=jnp.float64)
        edges = [
            helpers.edge('output', 'hidden_2', rule='fixed'),
            *(helpers.edge(s, 'hidden_1', rule='dx') for s in ('output', 'hidden_2')),
        ]
        wiring = rlra_jax.wire(apart.sites(model, batch['image']), edges)
        feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'], std=1.0)
        feedback = feedback._replace(synapses=jax.tree.map(lambda E: E.astype(jnp.float64), feedback.synapses))
        update = apart.update_fn(model, wiring, beta=0.5)

        def discrepancy(level):
            _, _, aux = update(
                variables, feedback._replace(synapses=(feedback.synapses[0], level)), batch, jax.random.key(0)
            )
            return aux.discrepancy

        grads, _, _ = update(variables, feedback, batch, jax.random.key(0))
        expected = jax.grad(discrepancy)(
            feedback.synapses[1]
        )  # nothing lies below hidden_1, so Eq. 2 moves there alone
        for name, E in expected.items():
            np.testing.assert_allclose(grads.synapses[1][name], E, atol=1e-12)


@pytest.mark.parametrize(('beta', 'options'), [(0.02, {}), (0.02, {'normalise': True}), (0.2, {})])
def test_errors_that_fade_below_what_activities_resolve_are_told(beta, options):
    """Over 8 levels by 1e-13 or, in time, not at all; warnings that nobody expects are errors here."""
    *_, variables, feedback, batch, update = helpers.make_step(
        'tanh', 'chain', 8, dtype=jnp.float32, beta=beta, **options
    )
    told = pytest.warns(UserWarning, match=r'8 recursion levels .* beta = 0.02 leave 3e-14 of them')
    with told if beta == 0.02 and not options else contextlib.nullcontext():
        jax.eval_shape(update, variables, feedback, batch, jax.random.key(0))


def test_errors_that_grow_do_not_fade():
    _warn_of_fading(700, 3.0, jnp.dtype(jnp.float32))


def test_where_no_error_comes_nothing_is_missed():
    """Behind a stop_gradient a region is its own target."""

    class Stopped(nn.Module):
        @nn.compact
        def __call__(self, x):
            still = rlra_jax.Site(jnp.tanh, name='still')(nn.Dense(6, name='dense_1')(x))
            z = jnp.concatenate([x, jax.lax.stop_gradient(still)], axis=1)
            return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='hidden')(nn.Dense(6, name='dense_2')(z)))

    model, batch = Stopped(), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    with pytest.warns(UserWarning, match=r"no error comes to \['still'\]"):
        wiring = helpers.make_wiring(model, batch['image'], 'chain', rule='fixed')
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'])
    seen = forward(model, variables, batch['image'])
    signals = propagate(wiring, feedback.synapses, seen.h, seen.phi, {'output': jnp.ones((12, 4))}, Options())
    np.testing.assert_array_equal(signals.e['still'], 0)
    np.testing.assert_array_equal(signals.y['still'], jnp.tanh(seen.h['still']))
    np.testing.assert_array_equal(signals.z['still'], signals.y['still'])
