"""Diagnostics against what is known: backprop's own angles, transposed weights, hand-made activities."""

import apart
import flax
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from apart import diagnose

import rlra_jax


def measure(name, model, variables, batch, change=lambda synapses: synapses, **options):
    learner = apart.make_learner(name, model, batch['image'], **options)
    feedback = learner.init(jax.random.key(1), variables, batch)
    feedback = feedback._replace(synapses=change(feedback.synapses))
    run = jax.jit(lambda v, f: diagnose(model, learner, v, f, batch, jax.random.key(2)))
    return {key: float(value) for key, value in run(variables, feedback).items()}


def test_backprop_agrees_with_itself():
    model, variables, batch = helpers.make_mlp(depth=2)
    found = measure('backprop', model, variables, batch)
    for region in ('hidden_1', 'hidden_2', 'output'):
        assert found[f'angle/{region}'] < 0.1
        np.testing.assert_allclose(found[f'norm_ratio/{region}'], 1, rtol=1e-5)
    assert not [key for key in found if key.startswith(('alignment', 'displacement'))]


@pytest.mark.parametrize('name', ['rec_lra', 'feedback_alignment', 'target_prop', 'direct_feedback_alignment'])
def test_dropout_is_the_same_in_the_update_and_in_backprops(name):
    """The output layer's update is backprop's under all of them, if the masks are."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh, name='hidden')(nn.Dense(6)(x))
            return nn.Dense(4)(nn.Dropout(0.5, deterministic=False)(z))

    batch = helpers.make_batch()
    keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    variables = dict(Net().init(keys, batch['image']))
    assert measure(name, Net(), variables, batch)['angle/output'] < 0.1


def test_transposed_weights_align_and_negated_ones_oppose():
    model, variables, batch = helpers.make_mlp(depth=2)
    params = variables['params']

    def transposed(sign):
        output, hidden = ({f'{name}/kernel': sign * params[name]['kernel']} for name in ('readout', 'dense_2'))
        return lambda _: ({'output->': output}, {'hidden_2->': hidden})

    options = {'wiring': 'chain', 'rule': 'fixed', 'normalise': True, 'beta': 1e-3}
    found = measure('rec_lra', model, variables, batch, transposed(1.0), **options)
    np.testing.assert_allclose(found['alignment/output->hidden_2'], 1, atol=1e-5)
    np.testing.assert_allclose(found['alignment/hidden_2->hidden_1'], 1, atol=1e-5)
    assert found['angle/hidden_1'] < 2
    np.testing.assert_allclose(found['alignment/dense_2/kernel'], 1, atol=1e-5)
    found = measure('rec_lra', model, variables, batch, transposed(-1.0), **options)
    np.testing.assert_allclose(found['alignment/output->hidden_2'], -1, atol=1e-5)
    np.testing.assert_allclose(found['alignment/readout/kernel'], -1, atol=1e-5)
    assert found['angle/hidden_2'] > 178


def test_a_region_without_parameters_has_activities_but_no_update():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh, name='first')(nn.Dense(6)(x.reshape(len(x), -1)))
            return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='second')(z))

    model, batch = Twice(), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    found = measure('backprop', model, variables, batch)
    assert {'angle/first', 'angle/output', 'saturated/second'} <= set(found)
    assert 'angle/second' not in found


def test_direct_edges_are_compared_with_the_whole_path():
    """E = W_3^T W_2^T is the averaged Jacobian of a linear net's logits in its first region."""
    model = rlra_jax.nn.MLP(widths=(6, 5), classes=4, phi=lambda h: h, init_std=0.5)
    batch = helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    W2, W3 = (variables['params'][name]['kernel'] for name in ('dense_2', 'readout'))
    for name, options in (
        ('rec_lra', {'wiring': 'direct', 'kind': 'dense', 'rule': 'fixed'}),
        ('direct_feedback_alignment', {}),
    ):
        exact = ({'output->hidden_1': (W2 @ W3).T, 'output->hidden_2': W3.T},)
        found = measure(name, model, variables, batch, lambda _, exact=exact: exact, **options)
        np.testing.assert_allclose(found['alignment/output->hidden_1'], 1, atol=1e-5)


def test_backward_weights_are_compared_with_w():
    model, variables, batch = helpers.make_mlp(depth=3)
    W = flax.traverse_util.flatten_dict(variables['params'], sep='/')
    twice = measure('feedback_alignment', model, variables, batch, lambda B: {path: 2 * W[path] for path in B})
    np.testing.assert_allclose(twice['alignment/dense_2/kernel'], 1, atol=1e-5)
    assert twice['angle/hidden_1'] < 0.1
    np.testing.assert_allclose(twice['norm_ratio/hidden_1'], 8, rtol=1e-4)
    np.testing.assert_allclose(twice['norm_ratio/hidden_3'], 2, rtol=1e-4)


def test_saturated_and_dead_units_are_counted():
    """Of four relu units, one is dead for all, one for half of the examples."""
    model = rlra_jax.nn.MLP(widths=(4,), classes=3, phi=jax.nn.relu)
    x = jnp.array([[1.0], [1.0], [-1.0], [-1.0]])
    variables = dict(model.init(jax.random.key(0), x))
    layer = {'kernel': jnp.array([[0.0, 3.0, 0.0, 0.0]]), 'bias': jnp.array([-5.0, 0.0, 5.0, 5.0])}
    variables = {'params': {**variables['params'], 'dense_1': layer}}
    found = measure('backprop', model, variables, {'image': x, 'label': jnp.zeros(4, jnp.int32)})
    assert found['dead/hidden_1'] == 1 / 4
    assert found['saturated/hidden_1'] == (4 + 2) / 16


def test_units_that_answer_together_are_not_dead():
    """A softmax does not answer to what moves all its units alike."""
    model, x = rlra_jax.nn.MLP(widths=(4,), classes=3, phi=jax.nn.softmax), jnp.eye(5)
    variables = dict(model.init(jax.random.key(0), x))
    found = measure('backprop', model, variables, {'image': x, 'label': jnp.zeros(5, jnp.int32)})
    assert found['dead/hidden_1'] == found['saturated/hidden_1'] == 0


@pytest.mark.parametrize('name', ['difference_target_prop', 'rec_lra'])
def test_displacement_grows_with_the_step(name):
    model, variables, batch = helpers.make_mlp(depth=2)
    option = 'step' if name == 'difference_target_prop' else 'beta'
    small, large = (measure(name, model, variables, batch, **{option: size}) for size in (1e-2, 2e-2))
    np.testing.assert_allclose(large['displacement/hidden_2'] / small['displacement/hidden_2'], 2, rtol=0.05)
    assert 0 < small['displacement/hidden_1'] < 0.1


def test_sign_units_have_no_gradient_to_compare_with():
    model, variables, batch = helpers.make_mlp('sign', depth=2)
    found = measure('rec_lra', model, variables, batch, beta=2.0, wiring='direct', synapse_std=2.0)
    assert np.isnan(found['angle/hidden_1'])
    assert found['angle/output'] < 0.1
    assert found['displacement/hidden_1'] > 0


def test_a_model_without_sites_is_told_as_a_whole():
    model, batch = nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(4)]), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    learner = apart.make_learner('feedback_alignment', model, batch['image'])
    feedback = learner.init(jax.random.key(1), variables, batch)
    with pytest.warns(UserWarning, match="no Site: .* as of the region 'output', and saturated and dead of none"):
        found = apart.diagnose(model, learner, variables, feedback, batch, jax.random.key(2))
    assert set(found) == {'angle/output', 'norm_ratio/output', 'alignment/layers_2/kernel'}


class Two(nn.Module):
    """No Site, and two outputs."""

    @nn.compact
    def __call__(self, x):
        return {'one': nn.Dense(4)(x), 'other': nn.Dense(3)(x)}


def test_a_model_without_sites_may_have_several_outputs():
    batch = helpers.make_batch()
    net, loss = rlra_jax.regions(Two(), batch), lambda outputs, batch: (outputs['one'] ** 2).mean(axis=1)
    learner, key = rlra_jax.learners.backprop(net, loss=loss), jax.random.key(0)
    weights, state = learner.init(key)
    with pytest.warns(UserWarning, match='no Site'):
        found = rlra_jax.diagnose(net, learner, weights, state, batch, key)
    assert set(found) == {'angle/output', 'norm_ratio/output'}
    assert found['angle/output'] < 0.1
    with pytest.warns(UserWarning, match='no Site'):
        found = rlra_jax.diagnose(net, learner, weights, state, batch, key, loss=lambda *given: -loss(*given))
    assert found['angle/output'] > 179


def test_what_does_not_fit_is_told_as_an_update_tells_it():
    batch = helpers.make_batch()
    net, key = rlra_jax.regions(rlra_jax.nn.MLP(widths=(5,), classes=4), batch), jax.random.key(0)
    learner = rlra_jax.update_fn(net)
    weights, state = learner.init(key)
    with pytest.raises(ValueError, match=r"weights must be {'params': \.\.\., 'synapses'"):
        rlra_jax.diagnose(net, learner, weights['params'], state, batch, key)


def test_complex_parameters_count_by_both_parts():
    """As the same numbers do that are held as parts; the error is not backprop's, so that angles are not 0."""

    class Net(nn.Module):
        parts: bool

        @nn.compact
        def __call__(self, x):
            def draw(key):
                return jax.random.normal(key, (2, x.shape[-1], 5))

            real, imag = self.param('w', draw) if self.parts else (0, 0)
            w = real + 1j * imag if self.parts else self.param('w', lambda key: jax.lax.complex(*draw(key)))
            return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='hidden')(jnp.abs(x @ w) + (x @ w).imag))

    batch, found = helpers.make_batch(), []
    for parts in (False, True):
        net = rlra_jax.regions(Net(parts), batch)
        learner = rlra_jax.update_fn(net, rlra_jax.wire_direct(net, rule=rlra_jax.Fixed()))
        weights, state = learner.init(jax.random.key(0))
        found.append(rlra_jax.diagnose(net, learner, weights, state, batch, jax.random.key(1)))
    assert found[0]['angle/hidden'] > 1
    for name, value in found[1].items():
        assert jnp.isrealobj(found[0][name])
        np.testing.assert_allclose(found[0][name], value, rtol=1e-4, atol=1e-4, err_msg=name)
