import apart
import chex
import flax
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax.parallel.forward_pass import Held
from rlra_jax.parallel.packing import Own, advance
from rlra_jax.paths import flatten


def make(learner='rec_lra', synapse_optimizers=(), **options):
    model, variables, batch = helpers.make_mlp(depth=3)
    made = apart.make_learner(learner, model, batch['image'], **options)
    step = apart.make_train_step(made, optax.sgd(0.1), *synapse_optimizers)
    return step, made, variables, batch


def test_each_side_has_its_own_optimizer():
    step, learner, variables, batch = make(rule='kp', synapse_optimizers=[optax.sgd(0.7)])
    before = step.init(jax.random.key(0), variables, batch)
    grads, _, _ = learner.update(before.variables, apart.feedback_of(before), batch, jax.random.key(1))
    after, _ = step.update(before, batch, jax.random.key(1))
    expected = jax.tree.map(lambda W, g: W - 0.1 * g, variables['params'], grads.params)
    chex.assert_trees_all_close(after.variables['params'], expected, rtol=1e-6)
    expected = jax.tree.map(lambda E, g: E - 0.7 * g, before.weights['synapses'], grads.synapses)
    chex.assert_trees_all_close(after.weights['synapses'], expected, rtol=1e-6)


def test_kolen_pollack_difference_decays_as_the_weight_decay_says():
    """Chain, kp, one plain SGD with decay on both sides: E - W shrinks by (1 - rate decay) a step."""
    model, variables, batch = helpers.make_mlp(depth=3)
    learner = apart.rec_lra(model, batch['image'], wiring='chain', rule='kp', beta=0.5)
    decayed = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1))
    step = apart.make_train_step(learner, decayed, decayed)
    state = step.init(jax.random.key(0), variables, batch)

    def gaps(state):
        W = flatten(state.variables['params'])
        return {path: E[path] - W[path] for level in state.weights['synapses'] for E in level.values() for path in E}

    start = gaps(state)
    for i in range(20):
        state, _ = jax.jit(step.update)(state, batch, jax.random.key(i))
    expected = jax.tree.map(lambda gap: gap * (1 - 0.1 * 0.3) ** 20, start)
    chex.assert_trees_all_close(gaps(state), expected, atol=1e-5)


def test_scanning_equals_stepping():
    step, _, variables, batch = make(mirror_every=2)
    start = step.init(jax.random.key(0), variables, batch)
    keys = jax.random.split(jax.random.key(1), 5)
    scanned, aux = jax.jit(lambda s: jax.lax.scan(lambda s, k: step.update(s, batch, k), s, keys))(start)
    stepped = start
    for key in keys:
        stepped, last = jax.jit(step.update)(stepped, batch, key)
    chex.assert_trees_all_close(scanned, stepped, atol=1e-5)
    np.testing.assert_allclose(aux.loss[-1], last.loss, rtol=1e-4)


def test_frozen_variables_stay_frozen():
    batch = helpers.make_batch()
    net = rlra_jax.regions(helpers.Normed(), batch)
    step = rlra_jax.make_train_step(rlra_jax.update_fn(net), rlra_jax.optimizers(optax.sgd(0.1)))
    state = step.init(jax.random.key(0), flax.core.freeze(net.init(jax.random.key(0))))
    keys = jax.random.split(jax.random.key(1), 2)
    after, _ = jax.lax.scan(lambda state, key: step.update(state, batch, key), state, keys)
    chex.assert_trees_all_equal_structs(after, state)
    assert isinstance(after.variables['batch_stats'], flax.core.FrozenDict)


def test_default_synapse_optimizer_is_plain_sgd():
    step, learner, variables, batch = make(rule='kp')
    before = step.init(jax.random.key(0), variables, batch)
    grads, _, _ = learner.update(before.variables, apart.feedback_of(before), batch, jax.random.key(1))
    after, _ = step.update(before, batch, jax.random.key(1))
    expected = jax.tree.map(lambda E, g: E - 0.3 * g, before.weights['synapses'], grads.synapses)
    chex.assert_trees_all_close(after.weights['synapses'], expected, rtol=1e-6)


@pytest.mark.parametrize(
    'name',
    helpers.quick(
        ['backprop', 'rec_lra', 'feedback_alignment', 'direct_feedback_alignment', 'target_prop', 'equilibrium_prop'],
        'rec_lra',
        'target_prop',
        'equilibrium_prop',
    ),
)
def test_batch_statistics_are_carried_on(name):
    """One learner of each making; the settled states of E-Prop lie above the normalisation here."""
    model, batch = helpers.Normed(), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    learner = apart.make_learner(name, model, batch['image'], train_kwargs={'train': True})
    step = apart.make_train_step(learner, optax.sgd(0.1))
    after, _ = jax.jit(step.update)(step.init(jax.random.key(1), variables, batch), batch, jax.random.key(2))
    _, expected = model.apply(variables, batch['image'], train=True, mutable=['batch_stats'])
    chex.assert_trees_all_close(after.variables['batch_stats'], dict(expected)['batch_stats'], rtol=1e-5)


@pytest.mark.parametrize('optimizer', ['adam', None, optax.adam])
def test_what_is_no_optimizer(optimizer):
    model, _, batch = helpers.make_mlp()
    learner = apart.make_learner('backprop', model, batch['image'])
    with pytest.raises(ValueError, match=r'optimizer must be an optax.GradientTransformation; got'):
        rlra_jax.make_train_step(learner.learner, optimizer)
    with pytest.raises(ValueError, match=r'params must be an optax.GradientTransformation; got'):
        rlra_jax.optimizers(optimizer)
    with pytest.raises(ValueError, match=r'synapses must be an optax.GradientTransformation; got'):
        rlra_jax.optimizers(optax.sgd(0.1), optimizer)
    with pytest.raises(ValueError, match='learner must be what a factory in LEARNERS returned; got'):
        rlra_jax.make_train_step(rlra_jax.LEARNERS['backprop'], optax.sgd(0.1))


def test_gradient_accumulation_is_a_transformation_of_its_own():
    model, _, batch = helpers.make_mlp()
    learner = apart.make_learner('backprop', model, batch['image'])
    with pytest.raises(ValueError, match=r'GradientTransformation, as its gradient_transformation\(\) returns; got'):
        rlra_jax.make_train_step(learner.learner, optax.MultiSteps(optax.sgd(0.1), 2))


@pytest.mark.parametrize('name', ['kolen_pollack', 'steps'])
def test_what_init_returns_can_be_donated(name):
    """Where synapses start as the weights, and where several hold one E: no two leaves are one array."""
    batch = {**helpers.make_batch(4), 'image': jax.random.normal(jax.random.key(5), (4, 3, 6))}
    if name == 'steps':
        net = rlra_jax.regions(rlra_jax.nn.Elman(4, classes=4), batch)
        wiring = rlra_jax.wire_direct(net)
    else:
        net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(5, 5), classes=4), batch)
        wiring = rlra_jax.wire_chain(net, rule=rlra_jax.KolenPollack(equal=True))
    step = rlra_jax.make_train_step(rlra_jax.update_fn(net, wiring), optax.sgd(0.1))
    state = step.init(jax.random.key(0))
    after, _ = jax.jit(step.update, donate_argnums=0)(state, batch, jax.random.key(1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.weights))


def test_optimizers_that_go_by_the_loss():
    """Polyak's step is loss / ||gradient||^2 at most max_learning_rate; a plateau of two steps halves the rate."""
    model, variables, batch = helpers.make_mlp(depth=2)
    learner = apart.rec_lra(model, batch['image'], rule='kp')
    plateau = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=2))
    step = apart.make_train_step(learner, optax.polyak_sgd(max_learning_rate=100.0), plateau)
    before = step.init(jax.random.key(0), variables, batch)
    grads, _, aux = learner.update(before.variables, apart.feedback_of(before), batch, jax.random.key(1))
    after, _ = jax.jit(step.update)(before, batch, jax.random.key(1))
    rate = aux.loss / optax.tree.norm(grads.params, squared=True)
    expected = jax.tree.map(lambda W, g: W - rate * g, variables['params'], grads.params)
    chex.assert_trees_all_close(after.variables['params'], expected, rtol=1e-4, atol=1e-5)

    step = apart.make_train_step(learner, optax.sgd(0.0), plateau)
    state = step.init(jax.random.key(0), variables, batch)
    for _ in range(4):
        state, _ = jax.jit(step.update)(state, batch, jax.random.key(1))
    assert optax.tree.get(state.optimizer, 'scale') == 0.5


def test_paths_may_have_an_optimizer_of_their_own():
    weights = {'params': {'w': 1.0}, 'synapses': ({'output->': {'w': 1.0}, 'output->a': 1.0}, {'output=>b': 1.0})}
    optimizer = rlra_jax.optimizers(optax.sgd(1.0), optax.sgd(2.0), optax.sgd(3.0))
    steps, _ = optimizer.update(weights, optimizer.init(weights), weights)
    assert steps == {
        'params': {'w': -1.0},
        'synapses': ({'output->': {'w': -3.0}, 'output->a': -2.0}, {'output=>b': -2.0}),
    }


@pytest.mark.parametrize('name', ['backprop', 'feedback_alignment', 'target_prop'])
def test_learners_without_levels_take_an_optimizer_of_paths_too(name):
    """They have none; it stays unused."""
    model, variables, batch = helpers.make_mlp(depth=2)
    learner = rlra_jax.LEARNERS[name](rlra_jax.regions(model, batch))
    optimizer = rlra_jax.optimizers(optax.sgd(0.1), optax.sgd(0.1), paths=optax.sgd(0.1))
    step = rlra_jax.make_train_step(learner, optimizer)
    state = step.init(jax.random.key(0), variables)
    jax.eval_shape(step.update, state, batch, jax.random.key(1))


class Rotated(nn.Module):
    """A complex parameter, or its two parts."""

    parts: bool

    @nn.compact
    def __call__(self, x):
        def draw(key):
            return nn.initializers.normal(1.0)(key, (2, 4))

        real, imag = self.param('w', draw) if self.parts else (0, 0)
        w = real + 1j * imag if self.parts else self.param('w', lambda key: jax.lax.complex(*draw(key)))
        return jnp.abs(rlra_jax.Site(jnp.tanh)(nn.Dense(4)(x)) * w - (1 + 2j))


@pytest.mark.parametrize('name', ['backprop', 'rec_lra'])
def test_complex_parameters_take_the_steps_of_their_parts(name):
    """JAX's gradients of complex numbers are the conjugates of what descends."""
    batch, reached = helpers.make_batch(), []
    for parts in (False, True):
        net = rlra_jax.regions(Rotated(parts), batch)
        options = {'loss': lambda outputs, batch: (outputs**2).sum(-1)}
        if name == 'rec_lra':
            options['wiring'] = rlra_jax.wire_reverse(net, rule=rlra_jax.KolenPollack(equal=True))
        step = rlra_jax.make_train_step(rlra_jax.LEARNERS[name](net, **options), optax.sgd(0.01))
        state, update = step.init(jax.random.key(0)), jax.jit(step.update)
        losses = []
        for _ in range(5):
            state, aux = update(state, batch, jax.random.key(1))
            losses.append(float(aux.loss))
        reached.append((losses, state.weights['params']['w']))
    (losses, w), (expected, (real, imag)) = reached
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(w, real + 1j * imag, rtol=1e-5)
    assert losses[-1] < losses[0]


def test_a_block_steps_downhill_in_complex_parameters():
    held = Held({'w': jnp.array([1 + 1j])}, {}, {})
    optimizer, grads = optax.sgd(1.0), {'params': {'w': jnp.array([1j])}, 'synapses': {}}
    own = Own(held, optimizer.init({'params': held.params, 'synapses': {}}))
    np.testing.assert_array_equal(advance(optimizer, own, grads, {}).held.params['w'], [1 + 2j])
