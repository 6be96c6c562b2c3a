"""What every learner must do: each in CASES inherits all of it."""

import functools

import apart
import chex
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from apart import Feedback
from learner_cases import CASES

import rlra_jax
from rlra_jax.experiment.data import load

# Quick tests take one of a kind: with targets, with backward weights that learn from noise, with settling states.
QUICK = ('equilibrium_prop', 'rec_lra', 'weight_mirror')
KIN = ('difference_target_prop', 'fa_bp', 'fa_wm', 'ss_bp')
KINDS = helpers.quick(CASES, *QUICK)


def together(names):
    """Whose tests run in one process, which trains the learner once. Mixtures and kin of others: in test-full."""
    second = [pytest.mark.full]
    return [
        pytest.param(name, marks=[pytest.mark.xdist_group(name), *(second if name in KIN else ())]) for name in names
    ]


def test_every_learner_has_a_case():
    assert set(CASES) == set(rlra_jax.LEARNERS)


@functools.cache
def digits():
    data = load('digits')
    scale = jnp.float32(data.scale)
    return tuple(
        {'image': jnp.asarray(split.image, jnp.float32) * scale, 'label': jnp.asarray(split.label)}
        for split in (data.train, data.test)
    )


def make(name, phi='tanh', dtype=jnp.float32):
    model = rlra_jax.nn.MLP(widths=(64,) * 3, phi=rlra_jax.nn.ACTIVATIONS[phi], param_dtype=dtype)
    train, _ = digits()
    batch = {'image': train['image'][:50].astype(dtype), 'label': train['label'][:50]}
    learner = apart.make_learner(name, model, batch['image'], **CASES[name].options)
    step = apart.make_train_step(learner, optax.adam(1e-3), optax.sgd(0.3))

    def start(key):
        return step.init(key, dict(model.init(key, batch['image'])), batch)

    return model, learner, step, start, batch


@functools.cache
def trained(name):
    model, learner, step, start, _ = make(name)
    train, _ = digits()

    def body(state, key):
        index = jax.random.randint(key, (50,), 0, len(train['label']))
        return step.update(state, {k: v[index] for k, v in train.items()}, key)

    keys = jax.random.split(jax.random.key(2), 20 * 24)
    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, keys))(start(jax.random.key(0)))
    return model, learner, state


@pytest.mark.parametrize('name', together(CASES))
def test_learns_digits(name):
    model, learner, state = trained(name)
    _, test = digits()
    logits = jax.jit(learner.predict or model.apply)(state.variables, test['image'])
    assert 100 * (logits.argmax(axis=1) != test['label']).mean() < CASES[name].max_error


@pytest.mark.parametrize('name', KINDS)
def test_no_key_serves_twice(name):
    """What a learner draws at the start, and in an update, is independent."""
    model, variables, batch = helpers.make_mlp()
    learner = apart.make_learner(name, model, batch['image'])
    with jax.debug_key_reuse(True):
        feedback = jax.jit(learner.init)(jax.random.key(3), variables, batch)
        jax.jit(learner.update)(variables, feedback, batch, jax.random.key(4))


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('phi', ['relu'])
def test_every_region_gets_an_update_at_the_start(name, phi):
    _, learner, _, start, batch = make(name, phi)
    state = start(jax.random.key(0))
    grads, _, _ = jax.jit(learner.update)(state.variables, apart.feedback_of(state), batch, jax.random.key(1))
    for layer, leaves in grads.params.items():
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(leaves)), layer


@pytest.mark.parametrize('name', [name for name in CASES if name != 'backprop'])
def test_is_not_backprop_in_silence(name):
    model, learner, _, start, batch = make(name)
    state = start(jax.random.key(0))
    came, exact = (
        jax.jit(each.update)(state.variables, feedback, batch, jax.random.key(1))[0].params
        for each, feedback in (
            (learner, apart.feedback_of(state)),
            (apart.make_learner('backprop', model, batch['image']), Feedback((), {})),
        )
    )
    difference = jax.tree.map(jnp.subtract, came, exact)
    assert optax.tree.norm(difference) > 1e-3 * optax.tree.norm(exact)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize(
    'modes',
    [{'jax_enable_x64': True}, {'jax_numpy_rank_promotion': 'raise', 'jax_numpy_dtype_promotion': 'strict'}],
    ids=['64 bits', 'no promotion'],
)
def test_runs_in_the_modes_of_jax(name, modes):
    """A whole step, with optimizers that do: `adam` itself refuses strict dtypes."""
    model, learner, _, _, batch = make(name)
    variables, key = dict(jax.eval_shape(model.init, jax.random.key(0), batch['image'])), jax.random.key(1)
    step = apart.make_train_step(learner, optax.rmsprop(1e-3, momentum=0.9), optax.sgd(0.3))
    before = {option: getattr(jax.config, option) for option in modes}
    for option, value in modes.items():
        jax.config.update(option, value)
    try:
        state = jax.eval_shape(step.init, key, variables, batch)
        grads, _, aux = jax.eval_shape(learner.update, variables, apart.feedback_of(state), batch, key)
        after, _ = jax.eval_shape(step.update, state, batch, key)
    finally:
        for option, value in before.items():
            jax.config.update(option, value)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.params, variables['params'])
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.synapses, state.weights['synapses'])
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert not [leaf for leaf in jax.tree.leaves((aux, state)) if leaf.dtype == jnp.float64]  # of a float32 model


@pytest.mark.parametrize('name', together(name for name, case in CASES.items() if case.descends))
def test_each_regions_update_alone_lowers_the_loss_after_training(name):
    """A learner that quietly trains only its last layer fails here."""
    model, learner, state = trained(name)
    train, _ = digits()
    grads, _, aux = jax.jit(learner.update)(state.variables, apart.feedback_of(state), train, jax.random.key(1))

    @jax.jit
    def loss(params):
        logits = (learner.predict or model.apply)({'params': params}, train['image'])
        return optax.softmax_cross_entropy_with_integer_labels(logits, train['label']).mean()

    params = state.variables['params']
    assert set(grads.params) == set(params)
    for layer, update in grads.params.items():
        size = optax.tree.norm(params[layer]) / optax.tree.norm(update)
        moved = jax.tree.map(lambda W, g, size=size: W - 1e-3 * size * g, params[layer], update)
        assert loss({**params, layer: moved}) < aux.loss, layer


@pytest.mark.parametrize('name', KINDS)
def test_compiles_once_and_is_deterministic(name):
    _, _, step, start, batch = make(name)
    update = jax.jit(step.update)

    def run():
        state = start(jax.random.key(0))
        for i in range(3):
            state, _ = update(state, batch, jax.random.key(i))
        return state

    chex.assert_trees_all_equal(run(), run())
    assert update._cache_size() == 1


@pytest.mark.parametrize('name', KINDS)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_trees_and_dtypes_of_updates_match(name, dtype):
    _, learner, step, start, batch = make(name, dtype=dtype)
    state = start(jax.random.key(0))
    grads, feedback, _ = jax.eval_shape(
        learner.update, state.variables, apart.feedback_of(state), batch, jax.random.key(1)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.params, state.variables['params'])
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.synapses, state.weights['synapses'])
    chex.assert_trees_all_equal_shapes_and_dtypes(feedback, apart.feedback_of(state))
    after, aux = jax.jit(step.update)(state, batch, jax.random.key(1))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert not [leaf for leaf in jax.tree.leaves((aux, state)) if leaf.dtype == jnp.float64]  # of a float32 model
    assert jnp.isfinite(aux.loss)


@pytest.mark.parametrize('name', KINDS)
def test_vmaps_over_seeds(name):
    _, learner, _, start, batch = make(name)
    states = [start(jax.random.key(seed)) for seed in range(3)]
    variables, feedback = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        for parts in ([state.variables for state in states], [apart.feedback_of(state) for state in states])
    )
    vmapped = jax.jit(jax.vmap(learner.update, in_axes=(0, 0, None, None)))
    together, _, _ = vmapped(variables, feedback, batch, jax.random.key(1))
    update = jax.jit(learner.update)
    for seed, state in enumerate(states):
        alone, _, _ = update(state.variables, apart.feedback_of(state), batch, jax.random.key(1))
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, s=seed: leaf[s], together), alone, atol=1e-5)


def test_sign_units_train_below_the_last_layer():
    """With lower layers frozen as drawn, sign nets stay much worse: what rec-LRA gives hidden layers is useful."""
    model = rlra_jax.nn.MLP(widths=(64,) * 3, phi=jnp.sign)
    train, test = digits()
    learner = apart.rec_lra(model, train['image'][:50], beta=2.0, wiring='direct')

    def error(trainable):
        labels = {name: 'train' if name in trainable else 'freeze' for name in params}
        parts = {'train': optax.adam(1e-3), 'freeze': optax.set_to_zero(), 'synapses': optax.sgd(0.1)}  # much noise
        tx = optax.partition(parts, {'params': labels, 'synapses': 'synapses'})
        step = rlra_jax.make_train_step(learner.learner, tx)
        variables = {'params': params}

        def body(state, key):
            index = jax.random.randint(key, (50,), 0, len(train['label']))
            return step.update(state, {k: v[index] for k, v in train.items()}, key)

        keys = jax.random.split(jax.random.key(2), 1000)
        start = step.init(jax.random.key(0), variables)
        state, _ = jax.jit(lambda s: jax.lax.scan(body, s, keys))(start)
        return 100 * (model.apply(state.variables, test['image']).argmax(axis=1) != test['label']).mean()

    params = model.init(jax.random.key(0), train['image'][:50])['params']
    everything, last = error(set(params)), error({'readout'})
    assert everything < 8
    assert everything < 0.6 * last
