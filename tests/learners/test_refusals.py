"""What no learner takes, and what it says instead."""

import functools
import re

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
        ('rec_lra', {'synapse_std': -1}, 'synapse_std must be a number of at least 0; got -1'),
        ('lra_e', {'synapse_std': '0.1'}, "synapse_std must be a number of at least 0; got '0.1'"),
        ('rec_lra', {'allow': 'dense_1'}, "allow must be a collection of parameter paths; got 'dense_1'"),
        ('rec_lra', {'wiring': 'direct', 'gap': 2}, "gap must be left out, as the wiring 'direct' takes none; got 2"),
        ('rec_lra', {'wiring': 'chain', 'gap': 1}, "gap must be left out, as the wiring 'chain' takes none; got 1"),
        ('rec_lra', {'modules_per_block': 1}, "modules_per_block must be left out, as the wiring 'blocks'"),
        ('rec_lra', {'train_kwargs': 'train'}, "train_kwargs must be a mapping, .* got 'train'"),
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
        rlra_jax.LEARNERS[name](model, batch['image'], **options)


@pytest.mark.parametrize(('option', 'value'), [('gap', 2), ('kind', 'by_shape'), ('rule', 'mirror')])
def test_a_given_wiring_settles_what_makes_one(option, value):
    model, _, batch = helpers.make_mlp()
    wiring = rlra_jax.wire_direct(rlra_jax.sites(model, batch['image']))
    with pytest.raises(ValueError, match=f'{option} must be left out, as the wiring that was given takes none'):
        rlra_jax.LEARNERS['rec_lra'](model, batch['image'], wiring=wiring, **{option: value})


@pytest.mark.parametrize('name', ['direct_feedback_alignment', 'difference_target_prop', 'equilibrium_prop'])
def test_learners_that_take_no_allow_do_not_advise_it(name):
    model, batch = helpers.Tied(), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    with pytest.raises(ValueError, match=r"shared/kernel: \['hidden_1', 'hidden_2'\]") as error:
        rlra_jax.LEARNERS[name](model, batch['image']).init(jax.random.key(1), variables, batch)
    assert '`allow`' not in str(error.value)
