"""What error synapses start as."""

import functools

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax


def learner_of(rule, std):
    model, variables, batch = helpers.make_mlp(depth=3)
    learner = apart.rec_lra(model, batch['image'], kind='dense', rule=rule, synapse_std=std)
    return learner, variables, batch


@pytest.mark.parametrize('rule', ['mirror', 'kp'])
def test_synapses_may_start_at_nothing_and_be_filled(rule):
    learner, variables, batch = learner_of(rule, 0)
    step = apart.make_train_step(learner, optax.sgd(0.1), optax.sgd(0.3))
    state = step.init(jax.random.key(0), variables, batch)
    update = jax.jit(step.update)
    for leaf in jax.tree.leaves(state.weights['synapses']):
        np.testing.assert_array_equal(leaf, 0)
    grads, _, _ = learner.update(state.variables, apart.feedback_of(state), batch, jax.random.key(1))
    assert not np.any(grads.params['dense_1']['kernel'])
    for i in range(3):
        state, _ = update(state, batch, jax.random.key(i))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(state.weights['synapses']))
    grads, _, _ = learner.update(state.variables, apart.feedback_of(state), batch, jax.random.key(1))
    assert np.any(grads.params['dense_1']['kernel'])


@pytest.mark.parametrize('rule', ['hebbian', 'dx', 'fixed'])
def test_rules_that_would_leave_a_synapse_at_nothing(rule):
    learner, variables, batch = learner_of(rule, 0.0)
    with pytest.raises(
        ValueError, match=rf'rule {rule.capitalize()}\(\) of edge output->hidden_2 leaves a synapse at 0'
    ):
        learner.init(jax.random.key(0), variables, batch)


def test_paths_have_no_standard_deviation_of_their_own():
    model, variables, batch = helpers.make_mlp(depth=3)
    wiring = rlra_jax.wire_reverse(apart.sites(model, batch['image']), rule=rlra_jax.Fixed())
    draw = functools.partial(apart.init_feedback, jax.random.key(0), model, wiring, variables, batch['image'])
    for nothing, usual in zip(*(jax.tree.leaves(draw(std=std).synapses) for std in (0, 0.05)), strict=True):
        np.testing.assert_array_equal(nothing, usual)
        assert np.any(nothing)


def spoilt(change):
    """The update of a chain of paths, and feedback whose highest synapse is changed."""
    model, variables, batch = helpers.make_mlp(depth=3)
    learner = apart.rec_lra(model, batch['image'], wiring='reverse')
    feedback = learner.init(jax.random.key(0), variables, batch)
    (own, *below) = feedback.synapses
    feedback = feedback._replace(synapses=({'output->': change(own['output->'], variables['params'])}, *below))
    return lambda: learner.update(variables, feedback, batch, jax.random.key(1))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda E, W: {}, '0/output->/readout/kernel is missing'),
        (
            lambda E, W: {**E, 'readout/bias': W['readout']['bias']},
            '0/output->/readout/bias is too much',
        ),
        (
            lambda E, W: {**E, 'dense_2/kernel': W['dense_2']['kernel']},
            '0/output->/dense_2/kernel is too much',
        ),
        (lambda E, W: {**E, 'dense/kernel': W['dense_1']['kernel']}, '0/output->/dense/kernel is too much'),
        (
            lambda E, W: {'readout/kernel': W['dense_1']['kernel']},
            r'0/output->/readout/kernel must be \(6, 4\), and is \(7, 6\)',
        ),
        (lambda E, W: E['readout/kernel'], r'0/output-> is too much'),
    ],
)
def test_a_path_takes_the_very_weights_that_errors_meet(change, message):
    with pytest.raises(ValueError, match=message):
        spoilt(change)()


def test_float16_is_warned_of():
    """Its errors, divided by the batch size, may be 0 without a sign."""
    net = rlra_jax.regions(Half(), helpers.make_batch())
    with pytest.warns(UserWarning, match=r"float16 holds nothing below 6e-8: errors of regions \['act', 'output'\]"):
        rlra_jax.update_fn(net, rlra_jax.wire_chain(net)).init(jax.random.key(0))


def test_activities_that_phi_rounds_are_warned_of():
    """Errors are their differences. Direct feedback alignment has none of these, and takes such a model."""
    net = rlra_jax.regions(Rounding(), helpers.make_batch())
    with pytest.warns(UserWarning, match=r"phi of \['act'\] puts out \['bfloat16'\]: small errors"):
        rlra_jax.update_fn(net, rlra_jax.wire_chain(net)).init(jax.random.key(0))
    learner = rlra_jax.learners.direct_feedback_alignment(net)
    grads, *_ = learner.update(*learner.init(jax.random.key(0)), helpers.make_batch(), jax.random.key(1))
    assert all(jnp.any(g) for g in jax.tree.leaves(grads['params']))


class ComplexKernel(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(5)(x))
        return (z @ self.param('kernel', nn.initializers.normal(1, jnp.complex64), (5, 4))).real


def test_complex_parameters_are_not_learnt_from_noise():
    net = rlra_jax.regions(ComplexKernel(), helpers.make_batch())
    with pytest.raises(ValueError, match=r"output->act learns real parameters from noise; \['kernel'\] are complex"):
        rlra_jax.update_fn(net, rlra_jax.wire_reverse(net, rule=rlra_jax.Mirror())).init(jax.random.key(0))
    rlra_jax.update_fn(net, rlra_jax.wire_reverse(net, rule=rlra_jax.KolenPollack())).init(jax.random.key(0))


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.abs, name='spectrum')(jnp.fft.rfft(nn.Dense(6)(x)))
        return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(5)(z)))


@pytest.mark.parametrize('wire', [rlra_jax.wire_direct, rlra_jax.wire_reverse])
def test_complex_regions_do_not_learn_from_noise(wire):
    net = rlra_jax.regions(Spectral(), helpers.make_batch())
    with pytest.raises(ValueError, match=r"real pre-activations answer; those of \['spectrum'\] are complex"):
        rlra_jax.update_fn(net, wire(net, rule=rlra_jax.Mirror())).init(jax.random.key(0))
    rlra_jax.update_fn(net, rlra_jax.wire_reverse(net, rule=rlra_jax.KolenPollack())).init(jax.random.key(0))


class Rounding(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(lambda h: jnp.tanh(h).astype(jnp.bfloat16), name='act')(nn.Dense(5)(x))
        return nn.Dense(4, dtype=jnp.float32)(z)


class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(5, dtype=jnp.float16)(x))
        return nn.Dense(4, dtype=jnp.float16)(z)


def test_a_dense_synapse_names_the_sizes_of_other_regions():
    """Of a batch of other lengths than the example."""
    batch = {**helpers.make_batch(4), 'image': jnp.ones((4, 5, 6))}
    net = rlra_jax.regions(Lengths(), batch)
    update = rlra_jax.update_fn(net, rlra_jax.wire_direct(net, kind=rlra_jax.Dense()))
    weights, state = update.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r'a Dense synapse \(4, 15\) cannot join regions of 4 and 9 numbers'):
        update(weights, state, {**batch, 'image': jnp.ones((4, 3, 6))}, jax.random.key(1))


class Lengths(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(rlra_jax.Site(jnp.tanh)(nn.Dense(3)(x)).mean(axis=1))


def test_init_feedback_with_variables_of_another_width():
    model, _, batch = helpers.make_mlp(depth=2)
    _, other, _ = helpers.make_mlp(depth=2, width=9)
    wiring = helpers.make_wiring(model, batch['image'], 'direct')
    with pytest.raises(ValueError, match=r'params/dense_1/bias must be \(6,\), and is \(9,\)'):
        apart.init_feedback(jax.random.key(0), model, wiring, other, batch['image'])


def test_paths_that_start_as_weights_of_few_bits_are_wide():
    """So that small steps are not lost, as they would be where W is kept in bfloat16."""
    model, variables, batch = helpers.make_mlp(depth=2)
    few = jax.tree.map(lambda W: W.astype(jnp.bfloat16), variables)
    wiring = rlra_jax.wire_reverse(apart.sites(model, batch['image']), rule=rlra_jax.KolenPollack(equal=True))
    feedback = apart.init_feedback(jax.random.key(0), model, wiring, few, batch['image'])
    (E,) = feedback.synapses[0].values()
    assert E['readout/kernel'].dtype == jnp.float32
    np.testing.assert_array_equal(E['readout/kernel'], np.float32(few['params']['readout']['kernel']))


@pytest.mark.parametrize(('rule', 'starts'), [('mirror', False), ('kp', False), ('fixed', True), ('hebbian', True)])
def test_what_stands_for_a_kernel_of_zeros_starts_there_if_its_rule_learns_from_there(rule, starts):
    """Of readout skips. A random start would send errors that the network does not."""
    plain = rlra_jax.regions(rlra_jax.nn.MLP(widths=(6, 6), classes=4), helpers.make_batch())
    net = rlra_jax.nn.with_readouts(plain, ['hidden_1'])
    wiring = rlra_jax.wire_reverse(net, rule=helpers.RULES[rule]())
    weights, _ = jax.jit(rlra_jax.update_fn(net, wiring).init)(jax.random.key(0))
    assert not weights['params']['skips']['hidden_1']['kernel'].any()
    E = weights['synapses'][0]['output->']
    assert bool(E['skips/hidden_1/kernel'].any()) == starts
    assert E['readout/kernel'].std() > 0.1 * weights['params']['readout']['kernel'].std()
