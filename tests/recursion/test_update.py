"""Options, inputs and outputs of update_fn; that it is right is for test_oracles.py."""

import apart
import chex
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import rlra_jax
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.recursion.update import add_noise, rescale


def test_gradient_trees_match_what_they_update():
    _, _, variables, feedback, batch, update = helpers.make_step('tanh', 'blocks', 5, dtype=jnp.float32, rule='mirror')
    grads, after, aux = jax.eval_shape(update, variables, feedback, batch, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.params, variables['params'])
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.synapses, feedback.synapses)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, feedback)
    assert aux.loss.shape == aux.error.shape == aux.discrepancy.shape == ()


def test_kappa_scales_one_regions_update_only():
    model, wiring, variables, feedback, batch, update = helpers.make_step('tanh', 'chain', 3, dtype=jnp.float32)
    scaled = apart.update_fn(model, wiring, kappa={'hidden_2': 0.25})
    before, after = (u(variables, feedback, batch, jax.random.key(0))[0].params for u in (update, scaled))
    expected = {**before, 'dense_2': jax.tree.map(lambda g: 0.25 * g, before['dense_2'])}
    chex.assert_trees_all_close(after, expected, rtol=1e-6)


def test_alpha_mixes_in_the_sign_of_the_error():
    model, wiring, variables, feedback, batch, update = helpers.make_step('tanh', 'direct', 2, dtype=jnp.float32)
    mixed, signs = (apart.update_fn(model, wiring, alpha={'hidden_2': a}) for a in (0.25, 0.0))
    plain, mixed, signs = (u(variables, feedback, batch, jax.random.key(0))[0].params for u in (update, mixed, signs))
    expected = jax.tree.map(lambda p, s: 0.25 * p + 0.75 * s, plain['dense_2'], signs['dense_2'])
    chex.assert_trees_all_close(mixed['dense_2'], expected, atol=1e-6)
    chex.assert_trees_all_equal(mixed['dense_1'], plain['dense_1'])
    added, plain = (12 * u['dense_2']['bias'] for u in (signs, plain))  # 12 examples, each 1 or -1
    np.testing.assert_allclose(added, np.round(added), atol=1e-5)
    assert np.abs(added).max() >= 1 > np.abs(plain).max()


@pytest.mark.parametrize('wiring_name', ['direct', 'blocks', 'chain'])
def test_sign_units_with_a_surrogate_hear_of_every_example(wiring_name):
    """By themselves only the few that beta d carries over the threshold have an error."""
    model, wiring, variables, feedback, batch, rare = helpers.make_step('sign', wiring_name, 4, dtype=jnp.float32)
    told = apart.update_fn(model, wiring, beta=0.1, surrogate=jnp.tanh)
    rare, told = (u(variables, feedback, batch, jax.random.key(0))[0].params for u in (rare, told))
    for name, layer in told.items():
        assert np.all(layer['bias'] != 0)
        assert name == 'readout' or np.mean(rare[name]['bias'] != 0) < 1


def test_a_ball_for_updates_of_few_bits():
    """The sum of 80,000 squares is beyond float16, and so would be what one is divided by."""
    grads = {'params': -jnp.ones(80_000, jnp.float16).at[0].set(0), 'synapses': ()}
    shrunk = np.float64(rescale(grads, rlra_jax.Options(radius=1.0))['params'])
    assert shrunk[0] == 0
    np.testing.assert_allclose(shrunk[1:], -(80_000**-0.5), rtol=1e-3)


def test_radius_shrinks_only_updates_outside_the_ball():
    model, wiring, variables, feedback, batch, update = helpers.make_step(
        'tanh', 'direct', 2, dtype=jnp.float32, rule='kp'
    )
    plain, _, _ = update(variables, feedback, batch, jax.random.key(0))
    norms = sorted(float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(plain))
    radius = norms[len(norms) // 2]
    shrunk, _, _ = apart.update_fn(model, wiring, radius=radius)(variables, feedback, batch, jax.random.key(0))
    for before, after in zip(jax.tree.leaves(plain), jax.tree.leaves(shrunk), strict=True):
        norm = np.linalg.norm(before)
        np.testing.assert_allclose(after, before * min(1.0, radius / norm), rtol=1e-5)


def test_gamma_scales_the_synapses_update_only():
    model, wiring, variables, feedback, batch, update = helpers.make_step(
        'tanh', 'chain', 3, dtype=jnp.float32, rule='mirror'
    )
    weaker = apart.update_fn(model, wiring, gamma=0.1)
    before, after = (u(variables, feedback, batch, jax.random.key(0))[0] for u in (update, weaker))
    chex.assert_trees_all_equal(before.params, after.params)
    chex.assert_trees_all_close(jax.tree.map(lambda g: 0.1 * g, before.synapses), after.synapses, rtol=1e-6)


def test_noise_wants_images_and_no_noise_wants_none():
    assert add_noise({'tokens': 3}, 0.0, jax.random.key(0)) == {'tokens': 3}
    with pytest.raises(ValueError, match=r"input_noise is added to batch\['image'\]; the batch holds \['tokens'\]"):
        add_noise({'tokens': 3}, 0.1, jax.random.key(0))


def test_input_noise_depends_on_the_key_alone():
    model, wiring, variables, feedback, batch, _ = helpers.make_step('tanh', 'chain', 3, dtype=jnp.float32)
    update = jax.jit(apart.update_fn(model, wiring, input_noise=0.3))
    one, same, other = (update(variables, feedback, batch, jax.random.key(k))[0].params for k in (0, 0, 1))
    chex.assert_trees_all_equal(one, same)
    assert np.abs(one['dense_1']['kernel'] - other['dense_1']['kernel']).max() > 0


def test_input_noise_keeps_the_type_of_images():
    assert add_noise({'image': jnp.zeros((3, 4), jnp.bfloat16)}, 0.1, jax.random.key(0))['image'].dtype == jnp.bfloat16


class Emptied(nn.Module):
    """Beside a layer a bottleneck of no units."""

    @nn.compact
    def __call__(self, x):
        zeros = {'kernel_init': nn.initializers.zeros}  # others divide by the units
        z = rlra_jax.Site(jnp.tanh)(nn.Dense(5)(x) + nn.Dense(5, **zeros)(nn.Dense(0, **zeros, name='none')(x)))
        return nn.Dense(4)(rlra_jax.Site(jnp.tanh)(nn.Dense(5)(z) + nn.Dense(5, **zeros)(nn.Dense(0, **zeros)(z))))


def test_parameters_of_no_entries():
    net = rlra_jax.regions(Emptied(), batch := helpers.make_batch())
    update = rlra_jax.update_fn(net, rlra_jax.wire_reverse(net), rlra_jax.Options(radius=1.0))
    grads, _, _ = update(*update.init(jax.random.key(0)), batch, jax.random.key(1))
    assert grads['params']['none']['kernel'].shape == (7, 0)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_aux_reports_loss_error_and_discrepancy():
    _, _, variables, feedback, batch, update = helpers.make_step('tanh', 'direct', 2, dtype=jnp.float32, beta=0.5)
    _, _, aux = update(variables, feedback, batch, jax.random.key(0))
    (W, b), E = helpers.layers(variables['params']), helpers.by_layer(feedback.synapses)
    onehot = np.eye(4)[np.asarray(batch['label'])]
    _, z = oracle.forward(W, b, np.asarray(batch['image']), 'tanh')
    *_, e = oracle.step(W, b, E, np.asarray(batch['image']), onehot, 'tanh', 'direct', 2, 0.5, 'fixed')
    np.testing.assert_allclose(aux.loss, -np.log((z[-1] * onehot).sum(axis=1)).mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.error, (z[-1].argmax(axis=1) != np.asarray(batch['label'])).mean(), rtol=1e-6)
    np.testing.assert_allclose(aux.discrepancy, sum((v**2).sum(axis=1).mean() for v in e.values()), rtol=1e-4)


def test_batch_norm_statistics_come_through_and_noisy_passes_leave_them_alone():
    model, batch = helpers.Normed(), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule=rlra_jax.Mirror(std=5.0))
    kwargs = {'train_kwargs': {'train': True}}
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'], **kwargs)
    update = jax.jit(apart.update_fn(model, wiring, **kwargs))
    _, _, aux = update(variables, feedback, batch, jax.random.key(2))
    _, expected = model.apply(variables, batch['image'], train=True, mutable=['batch_stats'])
    chex.assert_trees_all_close(aux.variables, dict(expected), rtol=1e-5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'beta': 0.0}, r'beta must be a number above 0; got 0\.0'),
        ({'beta': float('inf')}, 'beta'),
        ({'beta': '0.1'}, "beta must be a number above 0; got '0.1'"),
        ({'kappa': -1.0}, 'kappa'),
        ({'kappa': {'hidden_1': float('nan')}}, 'kappa'),
        ({'beta': -1.0}, 'beta'),
        ({'gamma': -0.1}, 'gamma'),
        ({'alpha': 1.5}, 'alpha must be a number from 0 to 1'),
        ({'alpha': {'hidden_1': -1.0}}, 'alpha'),
        ({'radius': 0.0}, 'radius'),
        ({'input_noise': -1.0}, 'input_noise'),
    ],
)
def test_options_out_of_range(options, message):
    model, _, batch = helpers.make_mlp()
    with pytest.raises(ValueError, match=message):
        apart.update_fn(model, helpers.make_wiring(model, batch['image'], 'direct'), **options)


@pytest.mark.parametrize('name', ['kappa', 'alpha'])
def test_options_for_regions_that_do_not_exist(name):
    _, _, variables, feedback, batch, update = helpers.make_step(
        'tanh', 'direct', 2, dtype=jnp.float32, **{name: {'hiden_1': 0.5}}
    )
    with pytest.raises(ValueError, match=rf"{name} names unknown regions \['hiden_1'\]"):
        update(variables, feedback, batch, jax.random.key(0))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'label': jnp.zeros(12)}, 'integer class'),
        ({'label': jnp.zeros(11, jnp.int32)}, r"of one length, .*'label': 11"),
        ({'label': jnp.zeros((12, 4), jnp.int32)}, r'got int32 \(12, 4\)'),
        ({'image': jnp.zeros((12, 7), jnp.uint8)}, 'must be floating; got uint8'),
    ],
)
@pytest.mark.parametrize('learner', ['rec_lra', 'backprop'])
def test_bad_batches(change, message, learner):
    model, variables, batch = helpers.make_mlp()
    learner = apart.make_learner(learner, model, batch['image'])
    feedback = learner.init(jax.random.key(0), variables, batch)
    with pytest.raises(ValueError, match=message):
        learner.update(variables, feedback, {**batch, **change}, jax.random.key(0))


@pytest.mark.parametrize('labels', [[-1, 0], [0, 4]])
@pytest.mark.parametrize('made_by', ['rec_lra', 'backprop'])
def test_labels_that_are_no_class(labels, made_by):
    model, variables, batch = helpers.make_mlp()
    batch = {**batch, 'label': batch['label'].at[:2].set(jnp.array(labels))}
    learner = apart.make_learner(made_by, model, batch['image'])
    feedback = learner.init(jax.random.key(0), variables, batch)
    with pytest.raises(ValueError, match='labels of 4 classes run from 0 to 3; got'):
        learner.update(variables, feedback, batch, jax.random.key(0))
    _, _, aux = jax.jit(learner.update)(variables, feedback, batch, jax.random.key(0))
    assert np.isnan(aux.loss)


@pytest.mark.parametrize('dtype', ['uint8', 'int8'])
def test_labels_of_narrow_types_know_all_classes(dtype):
    loss = jax.jit(softmax_cross_entropy)(jnp.zeros((2, 256)), {'label': jnp.array([0, 127], dtype)})
    np.testing.assert_allclose(loss, np.log(256), rtol=1e-6)


def test_feedback_of_another_wiring():
    model, _, variables, _, batch, update = helpers.make_step('tanh', 'direct', 3, dtype=jnp.float32)
    other = helpers.make_wiring(model, batch['image'], 'chain')
    feedback = apart.init_feedback(jax.random.key(0), model, other, variables, batch['image'])
    with pytest.raises(ValueError, match=r'0/output->hidden_1 is missing; .*1/hidden_3->hidden_2 is too much'):
        update(variables, feedback, batch, jax.random.key(0))


def test_synapses_in_a_list():
    _, _, variables, feedback, batch, update = helpers.make_step('tanh', 'direct', 3, dtype=jnp.float32)
    with pytest.raises(ValueError, match='must be a tuple of levels, not a list'):
        update(variables, feedback._replace(synapses=list(feedback.synapses)), batch, jax.random.key(0))


def test_a_huge_update_is_projected_too():
    from rlra_jax.recursion.update import _project

    huge = jnp.full((3, 4), 1e30)
    np.testing.assert_allclose(jnp.linalg.norm(_project(huge, 2.0)), 2.0, rtol=1e-5)
    np.testing.assert_array_equal(_project(jnp.zeros(3), 2.0), jnp.zeros(3))


def test_discrepancy_weighs_regions_by_kappa():
    model, wiring, variables, feedback, batch, update = helpers.make_step('tanh', 'direct', 2, dtype=jnp.float32)
    weighted = apart.update_fn(model, wiring, kappa={'output': 0.0})
    plain, rest = (float(u(variables, feedback, batch, jax.random.key(0))[2].discrepancy) for u in (update, weighted))
    output = np.asarray(jax.nn.softmax(model.apply(variables, batch['image']))) - np.eye(4)[np.asarray(batch['label'])]
    np.testing.assert_allclose(plain - rest, (output**2).sum(axis=1).mean(), rtol=1e-4)


def test_batch_without_labels():
    _, _, variables, feedback, batch, update = helpers.make_step('tanh', 'direct', 2, dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"a batch holds \['image', 'label'\] here.* got \['image', 'target'\]"):
        update(variables, feedback, {'image': batch['image'], 'target': batch['label']}, jax.random.key(0))


def test_wiring_of_another_model():
    model, variables, batch = helpers.make_mlp(depth=3)
    wiring = helpers.make_wiring(helpers.make_mlp(depth=4)[0], batch['image'], 'chain')
    with pytest.raises(ValueError, match=r"unknown region 'hidden_4'"):
        apart.init_feedback(jax.random.key(0), model, wiring, variables, batch['image'])
