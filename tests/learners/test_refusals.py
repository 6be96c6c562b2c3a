"""What no learner takes, and what it says instead."""

import functools
import re

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest
from learner_cases import CASES

import rlra_jax


@pytest.mark.parametrize(
    ('wiring', 'known'),
    [('loop', 'blocks, chain, direct'), ('Direct', 'direct, blocks, chain'), (['direct'], 'direct')],
)
def test_unknown_wiring_and_the_nearest_first(wiring, known):
    model, _, batch = helpers.make_mlp()
    with pytest.raises(ValueError, match=re.escape(f'unknown wiring {wiring!r}; known: {known}')):
        apart.rec_lra(model, batch['image'], wiring=wiring)


def test_unknown_option():
    model, _, batch = helpers.make_mlp()
    with pytest.raises(ValueError, match='bata'):
        apart.rec_lra(model, batch['image'], bata=0.1)


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
    learner = apart.make_learner(name, model, batch['image'], **options)
    feedback = helpers.filled(jax.eval_shape(learner.init, jax.random.key(2), variables, batch))
    return learner, variables, feedback, batch


def wider():
    """What another network of the same names has."""
    model, variables, batch = helpers.make_mlp(depth=3, width=8)
    return model, variables, batch


FAULTS = {  # what an update is given -> the error
    'a batch in a tuple': ('batch', lambda b: (b['image'], b['label']), 'a batch is a mapping of arrays .* got tuple'),
    'no batch': ('batch', lambda b: None, 'a batch is a mapping of arrays .* got NoneType'),
    'a mask': (
        'batch',
        lambda b: {**b, 'mask': b['label'] > 0},
        r"a batch holds \['image', 'label'\] here.* got \['image', 'label', 'mask'\]",
    ),
    'images as they are stored': (
        'batch',
        lambda b: {**b, 'image': b['image'].astype(jnp.uint8)},
        r"batch\['image'\] must be floating; got uint8",
    ),
    'images of another size': (
        'batch',
        lambda b: {**b, 'image': b['image'][:, :5]},
        r"'image': \(12, 5\).*: params/dense_1/kernel must be \(5, 6\), and is \(7, 6\)",
    ),
    'one-hot labels': (
        'batch',
        lambda b: {**b, 'label': jax.nn.one_hot(b['label'], 4)},
        'an integer class for each row of the outputs .* got float32',
    ),
    'no key': ('key', lambda k: None, 'key must be a single key, .* got None'),
    'a number for a key': ('key', lambda k: 3, 'key must be a single key, .* got 3'),
    'several keys': ('key', lambda k: jax.random.split(k, 3), r'key must be a single key, .* got \(3,\)'),
    'the parameters alone': (
        'weights',
        lambda w: w['params'],
        r"weights must be {'params': ..., 'synapses': ...}.* got \['dense_1'",
    ),
    'no weights': ('weights', lambda w: None, "weights must be {'params': .* got NoneType"),
    'parameters of another width': (
        'weights',
        lambda w: {**w, 'params': wider()[1]['params']},
        r'params/dense_1/kernel must be \(7, 6\), and is \(7, 8\)',
    ),
    'a layer too much': (
        'weights',
        lambda w: {**w, 'params': {**w['params'], 'dense_4': w['params']['dense_3']}},
        'params/dense_4/bias is too much; params/dense_4/kernel is too much',
    ),
    'a layer too few': (
        'weights',
        lambda w: {**w, 'params': {name: own for name, own in w['params'].items() if name != 'dense_3'}},
        'params/dense_3/bias is missing; params/dense_3/kernel is missing',
    ),
    'a collection too much': (
        'state',
        lambda s: s._replace(collections={'batch_stats': {'norm': {'mean': jnp.zeros(3)}}}),
        'batch_stats/norm/mean is too much',
    ),
    'no state': ('state', lambda s: None, "state must be the State that the learner's init returned; got NoneType"),
    'the memory alone': ('state', lambda s: s.memory, "state must be the State that the learner's init returned; got"),
}


@pytest.mark.parametrize('name', CASES)
def test_what_no_update_takes(name):
    """Each fault by itself, traced: what was expected and what came, before anything is computed."""
    learner, variables, feedback, batch = small(name)
    right = [*apart.state_of(variables, feedback), batch, jax.random.key(0)]
    for part, spoil, message in FAULTS.values():
        place = ['weights', 'state', 'batch', 'key'].index(part)
        given = [spoil(own) if i == place else own for i, own in enumerate(right)]
        with pytest.raises(ValueError, match=message):
            learner.learner(*given)


INIT_FAULTS = {  # what an init is given -> the error
    'no key': ({'key': None}, 'key must be a single key, .* got None'),
    'several keys': ({'key': jax.random.split(jax.random.key(0), 3)}, r'key must be a single key, .* got \(3,\)'),
    'the parameters alone': (
        {'variables': {'dense_1': 0}},
        r"what the model's init returned, {'params': ..., ...}; got \['dense_1'\]",
    ),
    'variables of another width': ({'variables': None}, r'params/dense_1/kernel must be \(7, 6\), and is \(7, 8\)'),
}


@pytest.mark.parametrize('name', CASES)
def test_what_no_init_takes(name):
    learner, variables, _, _ = small(name)
    for change, message in INIT_FAULTS.values():
        given = {'key': jax.random.key(0), 'variables': variables, **change}
        given['variables'] = given['variables'] or wider()[1]
        with pytest.raises(ValueError, match=message):
            learner.learner.init(**given)


def test_without_variables_a_learner_draws_its_own():
    model, variables, batch = helpers.make_mlp(depth=2)
    net = rlra_jax.regions(model, batch)
    weights, state = rlra_jax.update_fn(net).init(jax.random.key(0))
    assert jax.tree.structure(weights['params']) == jax.tree.structure(variables['params'])
    other, _ = rlra_jax.update_fn(net).init(jax.random.key(1))
    assert jnp.any(weights['params']['dense_1']['kernel'] != other['params']['dense_1']['kernel'])
    assert state.memory['step'] == 0


@pytest.mark.parametrize('name', CASES)
def test_feedback_of_another_width(name):
    learner, variables, feedback, batch = small(name)
    other_model, other_variables, other_batch = wider()
    other = apart.make_learner(name, other_model, other_batch['image'], **CASES[name].options)
    foreign = jax.eval_shape(other.init, jax.random.key(2), other_variables, other_batch)
    if jax.tree.leaves(foreign.synapses):
        with pytest.raises(
            ValueError, match=r'the synapses are not .*(hidden|dense)_\d.* must be \(.*\), and is \(.*\)'
        ):
            learner.update(variables, helpers.filled(foreign), batch, jax.random.key(0))
    else:
        assert foreign == jax.eval_shape(lambda: feedback)


def test_synapses_of_a_model_with_another_head_name_the_edge():
    learner, variables, _, batch = small('rec_lra')
    model, other, _ = helpers.make_mlp(depth=3, classes=10)
    foreign = apart.rec_lra(model, batch['image']).init(jax.random.key(0), other, batch)
    with pytest.raises(
        ValueError, match=r'the synapses are not .* 0/output->hidden_2 must be \(4, 6\), and is \(10, 6\)'
    ):
        learner.update(variables, foreign, batch, jax.random.key(0))


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('rec_lra', {'normalise': 'False'}, "normalise must be True or False; got 'False'"),
        ('rec_lra', {'mirror_antithetic': 'yes'}, "antithetic must be True or False; got 'yes'"),
        ('rec_lra', {'beta': True}, 'beta must be a number above 0; got True'),
        ('rec_lra', {'gap': True}, 'gap must be a whole number of at least 1; got True'),
        ('rec_lra', {'surrogate': 3}, 'surrogate must be a function, such as jnp.tanh .*; got 3'),
        ('rec_lra', {'synapse_std': -1}, 'synapse_std must be a number of at least 0; got -1'),
        ('lra_e', {'synapse_std': '0.1'}, "synapse_std must be a number of at least 0; got '0.1'"),
        ('rec_lra', {'allow': 'dense_1'}, "allow must be a collection of parameter paths; got 'dense_1'"),
        ('rec_lra', {'wiring': 'direct', 'gap': 2}, "gap must be left out, as the wiring 'direct' takes none; got 2"),
        ('rec_lra', {'wiring': 'chain', 'gap': 1}, "gap must be left out, as the wiring 'chain' takes none; got 1"),
        ('rec_lra', {'modules_per_block': 1}, "modules_per_block must be left out, as the wiring 'blocks'"),
        ('direct_feedback_alignment', {'synapse_std': -1}, 'synapse_std must be a number above 0; got -1'),
        ('direct_feedback_alignment', {'synapse_std': 0}, 'synapse_std must be a number above 0; got 0'),
        ('equilibrium_prop', {'symmetric': 'False'}, "symmetric must be True or False; got 'False'"),
        ('target_prop', {'noise': True}, 'noise must be a number of at least 0; got True'),
        ('kolen_pollack', {'decay': '1e-4'}, 'decay must be a number of at least 0'),
        ('fa_bp', {'last': 1.0}, 'last must be a whole number of at least 1'),
    ],
)
def test_options_out_of_their_range(name, options, message):
    model, _, batch = helpers.make_mlp()
    with pytest.raises(ValueError, match=message):
        apart.make_learner(name, model, batch['image'], **options)


@pytest.mark.parametrize(('option', 'value'), [('gap', 2), ('kind', 'by_shape'), ('rule', 'mirror')])
def test_a_given_wiring_settles_what_makes_one(option, value):
    model, _, batch = helpers.make_mlp()
    wiring = rlra_jax.wire_direct(apart.sites(model, batch['image']))
    with pytest.raises(ValueError, match=f"learner 'rec_lra' has no option .'{option}'."):
        apart.rec_lra(model, batch['image'], wiring=wiring, **{option: value})


@pytest.mark.parametrize('name', ['direct_feedback_alignment', 'difference_target_prop', 'equilibrium_prop'])
def test_learners_that_take_no_allow_do_not_advise_it(name):
    class Bypassed(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(6, name='dense')(x)
            return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='hidden')(h)) + h[:, :4]

    model, batch = Bypassed(), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    with pytest.raises(ValueError, match=r"dense/kernel: \['hidden', 'output'\]") as error:
        apart.make_learner(name, model, batch['image']).init(jax.random.key(1), variables, batch)
    assert '`allow`' not in str(error.value)


def test_direct_feedback_takes_straight_synapses_only():
    model, _, batch = helpers.make_mlp()
    with pytest.raises(ValueError, match=r"kind must be straight, .*; got \"Path\(\) for \['output->hidden_3'\]\""):
        apart.make_learner('direct_feedback_alignment', model, batch['image'], kind='by_shape')
    with pytest.raises(ValueError, match="unknown kind of synapse 'tokn'; known: token"):
        apart.make_learner('direct_feedback_alignment', model, batch['image'], kind='tokn')
