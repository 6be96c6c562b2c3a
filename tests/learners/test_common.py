"""What every learner must do. A new learner adds one line to CASES and inherits all of it."""

import functools
import re
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax.experiment.data import load
from rlra_jax.learners.backprop import backprop
from rlra_jax.types import Feedback


class Case(NamedTuple):
    """How a learner is tested. max_error: % of digits after 20 epochs; guessing: 90."""

    max_error: float
    options: dict[str, Any] = {}  # noqa: RUF012 read only
    descends: bool = True  # whether theory promises that each region's update alone lowers the loss


CASES = {
    'backprop': Case(6.0),
    'difference_target_prop': Case(8.0),
    'direct_feedback_alignment': Case(6.0),
    'equilibrium_prop': Case(10.0),
    'fa_bp': Case(8.0),
    'fa_wm': Case(8.0),
    'feedback_alignment': Case(8.0),
    'kolen_pollack': Case(10.0),
    'lra_e': Case(8.0),
    'rec_lra': Case(6.0, {'mirror_every': 2}),
    'sign_symmetry': Case(12.0),
    'ss_bp': Case(8.0),
    # An inverse that is not perfect moves targets away from the activity even where nothing is to be mended.
    'target_prop': Case(60.0, descends=False),
    'weight_mirror': Case(8.0),
}
# Quick tests take one of a kind: with targets, with backward weights that learn from noise, with settling states.
QUICK = ('equilibrium_prop', 'rec_lra', 'weight_mirror')
KINDS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in CASES]


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
    learner = rlra_jax.LEARNERS[name](model, batch['image'], **CASES[name].options)
    step = rlra_jax.make_train_step(learner, optax.adam(1e-3), optax.sgd(0.3))

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


@pytest.mark.parametrize('name', CASES)
def test_learns_digits(name):
    model, learner, state = trained(name)
    _, test = digits()
    logits = jax.jit(learner.predict or model.apply)(state.variables, test['image'])
    assert 100 * (logits.argmax(axis=1) != test['label']).mean() < CASES[name].max_error


@pytest.mark.parametrize('name', KINDS)
def test_no_key_serves_twice(name):
    """What a learner draws at the start, and in an update, is independent."""
    model, variables, batch = helpers.make_mlp()
    learner = rlra_jax.LEARNERS[name](model, batch['image'])
    with jax.debug_key_reuse(True):
        feedback = jax.jit(learner.init)(jax.random.key(3), variables, batch)
        jax.jit(learner.update)(variables, feedback, batch, jax.random.key(4))


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('phi', ['relu'])
def test_every_region_gets_an_update_at_the_start(name, phi):
    _, learner, _, start, batch = make(name, phi)
    state = start(jax.random.key(0))
    grads, _, _ = jax.jit(learner.update)(state.variables, state.feedback, batch, jax.random.key(1))
    for layer, leaves in grads.params.items():
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(leaves)), layer


@pytest.mark.parametrize('name', [name for name in CASES if name != 'backprop'])
def test_is_not_backprop_in_silence(name):
    model, learner, _, start, batch = make(name)
    state = start(jax.random.key(0))
    came, exact = (
        jax.jit(each.update)(state.variables, feedback, batch, jax.random.key(1))[0].params
        for each, feedback in ((learner, state.feedback), (backprop(model, batch['image']), Feedback((), {})))
    )
    difference = jax.tree.map(jnp.subtract, came, exact)
    assert optax.tree.norm(difference) > 1e-3 * optax.tree.norm(exact)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('jax_enable_x64', True),
        ('jax_numpy_rank_promotion', 'raise'),
        ('jax_numpy_dtype_promotion', 'strict'),
    ],
)
def test_runs_in_the_modes_of_jax(name, option, value):
    """Optimizers are optax's: `adam` itself refuses strict dtypes."""
    model, learner, _, _, batch = make(name)
    variables, key = dict(jax.eval_shape(model.init, jax.random.key(0), batch['image'])), jax.random.key(1)
    before = getattr(jax.config, option)
    jax.config.update(option, value)
    try:
        feedback = jax.eval_shape(learner.init, key, variables, batch)
        grads, after, _ = jax.eval_shape(learner.update, variables, feedback, batch, key)
    finally:
        jax.config.update(option, before)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.params, variables['params'])
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.synapses, feedback.synapses)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, feedback)


@pytest.mark.parametrize('name', [name for name, case in CASES.items() if case.descends])
def test_each_regions_update_alone_lowers_the_loss_after_training(name):
    """A learner that quietly trains only its last layer fails here."""
    model, learner, state = trained(name)
    train, _ = digits()
    grads, _, aux = jax.jit(learner.update)(state.variables, state.feedback, train, jax.random.key(1))

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


@pytest.mark.parametrize('name', CASES)
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
    grads, feedback, _ = jax.eval_shape(learner.update, state.variables, state.feedback, batch, jax.random.key(1))
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.params, state.variables['params'])
    chex.assert_trees_all_equal_shapes_and_dtypes(grads.synapses, state.feedback.synapses)
    chex.assert_trees_all_equal_shapes_and_dtypes(feedback, state.feedback)
    after, aux = jax.jit(step.update)(state, batch, jax.random.key(1))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert jnp.isfinite(aux.loss)


@pytest.mark.parametrize('name', KINDS)
def test_vmaps_over_seeds(name):
    _, learner, _, start, batch = make(name)
    states = [start(jax.random.key(seed)) for seed in range(3)]
    variables, feedback = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(getattr(state, part) for state in states))
        for part in ('variables', 'feedback')
    )
    vmapped = jax.jit(jax.vmap(learner.update, in_axes=(0, 0, None, None)))
    together, _, _ = vmapped(variables, feedback, batch, jax.random.key(1))
    update = jax.jit(learner.update)
    for seed, state in enumerate(states):
        alone, _, _ = update(state.variables, state.feedback, batch, jax.random.key(1))
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, s=seed: leaf[s], together), alone, atol=1e-5)


def test_sign_units_train_below_the_last_layer():
    """With lower layers frozen as drawn, sign nets stay much worse: what rec-LRA gives hidden layers is useful."""
    model = rlra_jax.nn.MLP(widths=(64,) * 3, phi=jnp.sign)
    train, test = digits()
    learner = rlra_jax.LEARNERS['rec_lra'](model, train['image'][:50], beta=2.0, wiring='direct')

    def error(trainable):
        labels = {name: 'train' if name in trainable else 'freeze' for name in params}
        adam = optax.multi_transform({'train': optax.adam(1e-3), 'freeze': optax.set_to_zero()}, lambda _: labels)
        step = rlra_jax.make_train_step(learner, adam, optax.sgd(0.1))  # signs hear much noise
        variables = {'params': params}

        def body(state, key):
            index = jax.random.randint(key, (50,), 0, len(train['label']))
            return step.update(state, {k: v[index] for k, v in train.items()}, key)

        keys = jax.random.split(jax.random.key(2), 1000)
        start = step.init(jax.random.key(0), variables, {k: v[:50] for k, v in train.items()})
        state, _ = jax.jit(lambda s: jax.lax.scan(body, s, keys))(start)
        return 100 * (model.apply(state.variables, test['image']).argmax(axis=1) != test['label']).mean()

    params = model.init(jax.random.key(0), train['image'][:50])['params']
    everything, last = error(set(params)), error({'readout'})
    assert everything < 8
    assert everything < 0.6 * last


@pytest.mark.parametrize(
    ('wiring', 'known'),
    [('loop', 'blocks, chain, direct'), ('Direct', 'direct, blocks, chain'), (['direct'], 'direct')],
)
def test_unknown_wiring_and_the_nearest_first(wiring, known):
    model, _, batch = helpers.make_mlp()
    with pytest.raises(ValueError, match=re.escape(f'unknown wiring {wiring!r}; known: {known}')):
        rlra_jax.LEARNERS['rec_lra'](model, batch['image'], wiring=wiring)


def test_unknown_option():
    model, _, batch = helpers.make_mlp()
    with pytest.raises(TypeError, match='bata'):
        rlra_jax.LEARNERS['rec_lra'](model, batch['image'], bata=0.1)


@pytest.mark.parametrize('table', [rlra_jax.LEARNERS, rlra_jax.nn.MODELS, rlra_jax.nn.ACTIVATIONS])
@pytest.mark.parametrize('error', [KeyError, ValueError])
def test_a_name_that_a_table_lacks(table, error):
    with pytest.raises(error, match=f"unknown {table.what} 'none'; known: .*{next(iter(table))}"):
        table['none']


def test_the_nearest_learner_comes_first():
    with pytest.raises(ValueError, match="unknown learner 'reclra'; known: rec_lra, "):
        rlra_jax.LEARNERS['reclra']


@functools.cache
def small(name):
    """(learner, variables, feedback, batch) of a thin network."""
    model, variables, batch = helpers.make_mlp(depth=3)
    options = CASES[name].options
    learner = rlra_jax.LEARNERS[name](model, batch['image'], **options)
    feedback = helpers.filled(jax.eval_shape(learner.init, jax.random.key(2), variables, batch))
    return learner, variables, feedback, batch


def wider():
    """What another network of the same names has."""
    model, variables, batch = helpers.make_mlp(depth=3, width=8)
    return model, variables, batch


FAULTS = {  # what an update is given -> the error
    'a batch in a tuple': ('batch', lambda b: (b['image'], b['label']), "mapping with 'image' and 'label'; got tuple"),
    'no batch': ('batch', lambda b: None, "a batch is a mapping with 'image' and 'label'; got NoneType"),
    'a mask': ('batch', lambda b: {**b, 'mask': b['label'] > 0}, r"no learner heeds masks or weights; got \['mask'\]"),
    'images as they are stored': (
        'batch',
        lambda b: {**b, 'image': b['image'].astype(jnp.uint8)},
        r"batch\['image'\] must be floating; got uint8",
    ),
    'images of another size': (
        'batch',
        lambda b: {**b, 'image': b['image'][:, :5]},
        r'images \(12, 5\): params/dense_1/kernel must be \(5, 6\), and is \(7, 6\)',
    ),
    'one-hot labels': (
        'batch',
        lambda b: {**b, 'label': jax.nn.one_hot(b['label'], 4)},
        'an integer class for each of the images .* got float32',
    ),
    'no key': ('key', lambda k: None, 'key must be a single key, .* got None'),
    'a number for a key': ('key', lambda k: 3, 'key must be a single key, .* got 3'),
    'several keys': ('key', lambda k: jax.random.split(k, 3), r'key must be a single key, .* got \(3,\)'),
    'the parameters alone': (
        'variables',
        lambda v: v['params'],
        r"what the model's init returned, {'params': ..., ...}; got \['dense_1'",
    ),
    'no variables': ('variables', lambda v: None, "what the model's init returned, .* got NoneType"),
    'variables of another width': (
        'variables',
        lambda v: wider()[1],
        r'params/dense_1/kernel must be \(7, 6\), and is \(7, 8\)',
    ),
    'a layer too much': (
        'variables',
        lambda v: {'params': {**v['params'], 'dense_4': v['params']['dense_3']}},
        'params/dense_4/bias is too much; params/dense_4/kernel is too much',
    ),
    'a layer too few': (
        'variables',
        lambda v: {'params': {name: layer for name, layer in v['params'].items() if name != 'dense_3'}},
        'params/dense_3/bias is missing; params/dense_3/kernel is missing',
    ),
    'a collection too much': (
        'variables',
        lambda v: {**v, 'batch_stats': {'norm': {'mean': jnp.zeros(3)}}},
        'batch_stats/norm/mean is too much',
    ),
    'no feedback': ('feedback', lambda f: None, "the Feedback that the learner's init returned; got NoneType"),
    'the synapses alone': ('feedback', lambda f: f.synapses, "the Feedback that the learner's init returned; got"),
}


@pytest.mark.parametrize('name', CASES)
def test_what_no_update_takes(name):
    """Each fault by itself, traced: what was expected and what came, before anything is computed."""
    learner, variables, feedback, batch = small(name)
    right = [variables, feedback, batch, jax.random.key(0)]
    for part, spoil, message in FAULTS.values():
        place = ['variables', 'feedback', 'batch', 'key'].index(part)
        given = [spoil(own) if i == place else own for i, own in enumerate(right)]
        with pytest.raises(ValueError, match=message):
            learner.update(*given)


@pytest.mark.parametrize('name', CASES)
def test_what_no_init_takes(name):
    learner, variables, _, batch = small(name)
    right = {'key': jax.random.key(0), 'variables': variables, 'batch': batch}
    for part, spoil, message in FAULTS.values():
        if part in right:
            given = {**right, part: spoil(right[part])}
            with pytest.raises(ValueError, match=message):
                learner.init(given['key'], given['variables'], given['batch'])


@pytest.mark.parametrize('name', CASES)
def test_feedback_of_another_width(name):
    learner, variables, feedback, batch = small(name)
    other_model, other_variables, other_batch = wider()
    other = rlra_jax.LEARNERS[name](other_model, other_batch['image'], **CASES[name].options)
    foreign = jax.eval_shape(other.init, jax.random.key(2), other_variables, other_batch)
    if jax.tree.leaves(foreign.synapses):
        with pytest.raises(ValueError, match=r'synapses/.*(hidden|dense)_\d.* must be \(.*\), and is \(.*\)'):
            learner.update(variables, helpers.filled(foreign), batch, jax.random.key(0))
    else:
        assert foreign == jax.eval_shape(lambda: feedback)


def test_synapses_of_a_model_with_another_head_name_the_edge():
    learner, variables, _, batch = small('rec_lra')
    model, other, _ = helpers.make_mlp(depth=3, classes=10)
    foreign = rlra_jax.LEARNERS['rec_lra'](model, batch['image']).init(jax.random.key(0), other, batch)
    with pytest.raises(ValueError, match=r'synapses/0/output->hidden_2 must be \(4, 6\), and is \(10, 6\)'):
        learner.update(variables, foreign, batch, jax.random.key(0))


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('rec_lra', {'normalise': 'False'}, "normalise must be True or False; got 'False'"),
        ('rec_lra', {'mirror_antithetic': 'yes'}, "mirror_antithetic must be True or False; got 'yes'"),
        ('rec_lra', {'beta': True}, 'beta must be a number above 0; got True'),
        ('rec_lra', {'gap': True}, 'gap must be a whole number of at least 1; got True'),
        ('rec_lra', {'surrogate': 'tanh'}, 'surrogate must be a function'),
        ('rec_lra', {'synapse_std': -1}, 'synapse_std must be a number above 0; got -1'),
        ('lra_e', {'synapse_std': '0.1'}, "synapse_std must be a number above 0; got '0.1'"),
        ('rec_lra', {'allow': 'dense_1'}, "allow must be a collection of parameter paths; got 'dense_1'"),
        ('rec_lra', {'wiring': 'direct', 'gap': 3}, "gap must be 2, its default, as the wiring 'direct' takes none"),
        ('rec_lra', {'wiring': 'chain', 'gap': 1}, "gap must be 2, its default, as the wiring 'chain' takes none"),
        ('rec_lra', {'modules_per_block': 2}, "modules_per_block must be 1, its default, as the wiring 'blocks'"),
        ('rec_lra', {'train_kwargs': 'train'}, "train_kwargs must be a mapping, .* got 'train'"),
        ('direct_feedback_alignment', {'synapse_std': -1}, 'synapse_std must be a number above 0; got -1'),
        ('equilibrium_prop', {'symmetric': 'False'}, "symmetric must be True or False; got 'False'"),
        ('target_prop', {'noise': True}, 'noise must be a number of at least 0; got True'),
        ('kolen_pollack', {'decay': '1e-4'}, 'decay must be a number of at least 0'),
        ('fa_bp', {'last': 1.0}, 'last must be a whole number of at least 1'),
    ],
)
def test_options_out_of_their_range(name, options, message):
    model, _, batch = helpers.make_mlp()
    with pytest.raises(ValueError, match=message):
        rlra_jax.LEARNERS[name](model, batch['image'], **options)


@pytest.mark.parametrize(('option', 'value'), [('gap', 3), ('kind', 'channel'), ('rule', 'kp')])
def test_a_given_wiring_settles_what_makes_one(option, value):
    model, _, batch = helpers.make_mlp()
    wiring = rlra_jax.wire_direct(rlra_jax.sites(model, batch['image']))
    with pytest.raises(ValueError, match=f'{option} must be .*, its default, as the wiring that was given takes none'):
        rlra_jax.LEARNERS['rec_lra'](model, batch['image'], wiring=wiring, **{option: value})


@pytest.mark.parametrize('name', ['direct_feedback_alignment', 'difference_target_prop', 'equilibrium_prop'])
def test_learners_that_take_no_allow_do_not_advise_it(name):
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = nn.Dense(7, name='shared')
            z = rlra_jax.Site(jnp.tanh, name='one')(shared(x))
            return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='two')(shared(z)))

    model, batch = Tied(), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    with pytest.raises(ValueError, match=r"shared/kernel: \['one', 'two'\]") as error:
        rlra_jax.LEARNERS[name](model, batch['image']).init(jax.random.key(1), variables, batch)
    assert '`allow`' not in str(error.value)
