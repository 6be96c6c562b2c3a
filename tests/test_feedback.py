"""What error synapses start as."""

import functools

import helpers
import jax
import numpy as np
import optax
import pytest

import rlra_jax


def learner_of(rule, std):
    model, variables, batch = helpers.make_mlp(depth=3)
    learner = rlra_jax.LEARNERS['rec_lra'](model, batch['image'], kind='dense', rule=rule, synapse_std=std)
    return learner, variables, batch


@pytest.mark.parametrize('rule', ['mirror', 'kp'])
def test_synapses_may_start_at_nothing_and_be_filled(rule):
    learner, variables, batch = learner_of(rule, 0)
    step = rlra_jax.make_train_step(learner, optax.sgd(0.1), optax.sgd(0.3))
    state = step.init(jax.random.key(0), variables, batch)
    update = jax.jit(step.update)
    for leaf in jax.tree.leaves(state.feedback.synapses):
        np.testing.assert_array_equal(leaf, 0)
    grads, _, _ = learner.update(state.variables, state.feedback, batch, jax.random.key(1))
    assert not np.any(grads.params['dense_1']['kernel'])
    for i in range(3):
        state, _ = update(state, batch, jax.random.key(i))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(state.feedback.synapses))
    grads, _, _ = learner.update(state.variables, state.feedback, batch, jax.random.key(1))
    assert np.any(grads.params['dense_1']['kernel'])


@pytest.mark.parametrize('rule', ['hebbian', 'dx', 'fixed'])
def test_rules_that_would_leave_a_synapse_at_nothing(rule):
    learner, variables, batch = learner_of(rule, 0.0)
    with pytest.raises(ValueError, match=f'rule {rule!r} of edge output->hidden_2 leaves a synapse at 0'):
        learner.init(jax.random.key(0), variables, batch)


def test_paths_have_no_standard_deviation_of_their_own():
    model, variables, batch = helpers.make_mlp(depth=3)
    wiring = rlra_jax.wire_reverse(rlra_jax.sites(model, batch['image']), rule='fixed')
    draw = functools.partial(rlra_jax.init_feedback, jax.random.key(0), model, wiring, variables, batch['image'])
    for nothing, usual in zip(*(jax.tree.leaves(draw(std=std).synapses) for std in (0, 0.05)), strict=True):
        np.testing.assert_array_equal(nothing, usual)
        assert np.any(nothing)
