"""Errors that lead back through batch normalisation."""

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rlra_jax.batch_norm import mark_batch_norm, project

import rlra_jax
from rlra_jax.capture import forward
from rlra_jax.gradient import loss_gradient
from rlra_jax.learners.rec_lra import error_pathways
from rlra_jax.types import Edge, Wiring

TRAIN = {'train': True}


def test_projection_is_what_batch_normalisation_does_to_an_error():
    key_b, key_e = jax.random.split(jax.random.key(0))
    b, e = (3 + 2 * jax.random.normal(key, (5, 3, 4, 6)) for key in (key_b, key_e))
    norm = nn.BatchNorm(use_running_average=False, epsilon=0.0)
    variables = norm.init(jax.random.key(1), b)
    _, pull = jax.vjp(lambda b: norm.apply(variables, b, mutable='batch_stats')[0], b)
    seen = 1 + 7 * b  # scale and offset do not matter
    np.testing.assert_allclose(project(e, seen) / b.std(axis=(0, 1, 2)), pull(e)[0], atol=1e-5)
    np.testing.assert_array_equal(project(e, jnp.zeros_like(b)), e - e.mean(axis=(0, 1, 2)))


class Units(nn.Module):
    """Normalised layers, and a skip around two of them."""

    @nn.compact
    def __call__(self, x, train=False):
        def layer(z, name):
            return nn.BatchNorm(use_running_average=not train, name=f'norm_{name}')(nn.Dense(6, name=name)(z))

        skip = rlra_jax.Site(nn.relu, name='hidden_1')(layer(x, 'dense_1'))
        z = rlra_jax.Site(nn.relu, name='hidden_2')(layer(skip, 'dense_2'))
        z = rlra_jax.Site(nn.relu, name='hidden_3')(layer(z, 'dense_3') + skip)
        return nn.Dense(4, name='readout')(z)


def test_mirrors_of_a_normalised_network_give_the_gradient():
    """Of ResNets: `tests/nn/test_conv_models.py`."""
    model, batch = Units(), helpers.make_batch(16)
    variables = dict(model.init(jax.random.key(1), batch['image']))
    shared = {'wiring': 'reverse', 'kind': 'pooled', 'normalise': True, 'beta': 1e-3, 'synapse_std': 1e-2}
    learner = rlra_jax.LEARNERS['rec_lra'](model, batch['image'], batch_norm=True, train_kwargs=TRAIN, **shared)

    def step(feedback, key):
        grads, feedback, _ = learner.update(variables, feedback, batch, key)
        synapses = jax.tree.map(lambda E, g: E - 0.7 * g, feedback.synapses, grads.synapses)
        return feedback._replace(synapses=synapses), ()

    @jax.jit
    def run():
        feedback = learner.init(jax.random.key(2), variables, batch)
        feedback, _ = jax.lax.scan(step, feedback, jax.random.split(jax.random.key(3), 200))
        return rlra_jax.diagnose(model, learner, variables, feedback, batch, jax.random.key(4), train_kwargs=TRAIN)

    found = {name: float(value) for name, value in run().items()}
    regions = [region.name for region in rlra_jax.sites(model, batch['image'], train_kwargs=TRAIN)]
    assert found['alignment/hidden_3->hidden_2'] > 0.9999, found
    assert max(found[f'angle/{region}'] for region in regions) < 1.5, found
    assert all(0.95 < found[f'norm_ratio/{region}'] < 1.01 for region in regions), found


def transposed(params, wiring):
    """Synapses that transpose the weights of `Units`."""
    layers = {'output->hidden_3': 'readout', 'hidden_3->hidden_2': 'dense_3', 'hidden_2->hidden_1': 'dense_2'}
    return tuple(
        {edge.name: params[layers[edge.name]]['kernel'].T if edge.name in layers else () for edge in level}
        for level in wiring.levels
    )


def make_units(size=1.0):
    """(model, its variables, a batch): weights before a normalisation so many times as large as drawn, any gamma."""
    model, batch = Units(), helpers.make_batch(16)
    variables = dict(model.init(jax.random.key(1), batch['image']))
    params = variables['params'] = dict(variables['params'])
    for seed, name in enumerate(('dense_2', 'dense_3')):
        params[name] = {**params[name], 'kernel': size * params[name]['kernel']}
        gamma = jax.random.uniform(jax.random.key(seed), (6,), minval=0.2, maxval=3.0)
        params[f'norm_{name}'] = {**params[f'norm_{name}'], 'scale': gamma}
    return model, variables, batch


def test_transposed_weights_give_the_gradient():
    """What Kolen and Pollack's rule tends to, however large weights become that are normalised afterwards."""
    model, variables, batch = make_units(30.0)
    regions = rlra_jax.sites(model, batch['image'], train_kwargs=TRAIN)
    wiring = mark_batch_norm(rlra_jax.wire_reverse(regions, rule='kp'), regions)
    update = rlra_jax.update_fn(model, wiring, beta=1e-3, normalise=True, train_kwargs=TRAIN)
    feedback = rlra_jax.Feedback(transposed(variables['params'], wiring), {'step': jnp.int32(0)})
    grads, _, _ = update(variables, feedback, batch, jax.random.key(0))
    exact, _ = loss_gradient(model, variables, batch, jax.random.key(0), train_kwargs=TRAIN)
    for name in ('dense_1', 'dense_2', 'dense_3'):
        own, other = (tree[name]['kernel'] for tree in (grads.params, exact))
        np.testing.assert_allclose(own, other, atol=2e-3 * np.abs(other).max(), err_msg=name)


def test_what_is_normalised_is_known_without_a_synapse():
    """A synapse that has learned sees the same; and one that has not, what it is not."""
    model, variables, batch = make_units()
    regions = rlra_jax.sites(model, batch['image'], train_kwargs=TRAIN)
    wiring = rlra_jax.wire_reverse(regions, rule='mirror')
    seeing, knowing = mark_batch_norm(wiring), mark_batch_norm(wiring, regions)
    assert {edge.name: edge.skips for edge in knowing.edges if edge.batch_norm} == {
        'hidden_3->hidden_2': ('hidden_1',),
        'hidden_2->hidden_1': (),
    }

    def grads(wiring, synapses):
        update = rlra_jax.update_fn(model, wiring, beta=0.5, mirror_every=2, train_kwargs=TRAIN)
        feedback = rlra_jax.Feedback(synapses, {'step': jnp.int32(1)})  # the next step mirrors
        grads, _, _ = update(variables, feedback, batch, jax.random.key(0))
        return {name: grads.params[name]['kernel'] for name in ('dense_1', 'dense_2', 'dense_3')}

    learned = transposed(variables['params'], wiring)
    helpers.assert_updates_agree(grads(seeing, learned), grads(knowing, learned))
    new = jax.tree.map(lambda E: jax.random.normal(jax.random.key(2), E.shape), learned)
    first, other = (grads(marked, new)['dense_1'] for marked in (seeing, knowing))
    assert helpers.cosine(first, other) < 0.99


def test_layers_that_add_up_are_known_by_their_synapses_alone():
    """Of two that are normalised each for itself, h is no more than the sum."""
    shape = (2, 8, 8, 3)
    regions = [
        rlra_jax.Region('a', shape, 'float32'),
        rlra_jax.Region('b', shape, 'float32', ('a',)),
        rlra_jax.Region('c', shape, 'float32', ('a', 'b')),
        rlra_jax.Region('output', (2, 4), 'float32', ('c',)),
    ]
    wiring = mark_batch_norm(rlra_jax.wire_reverse(regions), regions)
    assert {edge.name: edge.skips for edge in wiring.edges if edge.batch_norm} == {
        'c->a': None,
        'c->b': None,
        'b->a': (),
    }


def test_rules_see_the_error_that_travels():
    """Kolen and Pollack's two updates are each other's transpose only if both have passed the normalisation."""
    model, batch = Units(), helpers.make_batch(12)
    variables = dict(model.init(jax.random.key(1), batch['image']))
    wiring = mark_batch_norm(rlra_jax.wire_chain(rlra_jax.sites(model, batch['image']), rule='kp'))
    args = (model, wiring, variables, batch['image'])
    feedback = rlra_jax.init_feedback(jax.random.key(2), *args, std=1.0, train_kwargs=TRAIN)
    update = rlra_jax.update_fn(model, wiring, beta=0.5, train_kwargs=TRAIN)
    grads, _, _ = update(variables, feedback, batch, jax.random.key(0))

    h = forward(model, variables, batch['image'], train_kwargs=TRAIN).h
    e = jax.nn.softmax(h['output']) - jax.nn.one_hot(batch['label'], 4)
    d = e @ feedback.synapses[0]['output->hidden_3']
    e = nn.relu(h['hidden_3']) - nn.relu(h['hidden_3'] - 0.5 * d)
    z = nn.relu(h['hidden_2'])
    b = z @ feedback.synapses[1]['hidden_3->hidden_2'].T
    travels = project(e, b) / jnp.sqrt(b.var(axis=0) + 1e-5)
    assert helpers.cosine(e, project(e, b)) < 0.99
    np.testing.assert_allclose(grads.synapses[1]['hidden_3->hidden_2'], travels.T @ z / 12, atol=1e-6)


def test_marks_all_edges_but_skips_and_those_from_the_output():
    edges = [
        Edge('output', 'c'),
        Edge('c', 'b', 'conv_transpose', 'kp'),
        Edge('c', 'a', 'identity'),
        Edge('b', 'a', 'conv_transpose'),
    ]
    wiring = mark_batch_norm(Wiring('output', (tuple(edges[:1]), tuple(edges[1:2]), tuple(edges[2:]))))
    assert [edge.name for edge in wiring.edges if edge.batch_norm] == ['c->b', 'b->a']
    assert [(e.kind, e.rule) for e in wiring.edges] == [(e.kind, e.rule) for e in edges]


def test_marked_edges_need_a_model_that_normalises():
    model, variables, batch = helpers.make_mlp()
    given = helpers.make_wiring(model, batch['image'], 'chain')
    wiring = mark_batch_norm(given, rlra_jax.sites(model, batch['image']))
    assert error_pathways(model, batch['image'], wiring=given, batch_norm=True) == wiring
    for other in ({}, {'cache': {'last': jnp.zeros(3)}}):
        with pytest.raises(ValueError, match=r'hidden_3->hidden_2, need a model with batch statistics.*only \['):
            rlra_jax.init_feedback(jax.random.key(0), model, wiring, {**variables, **other}, batch['image'])


def test_summary_counts_what_the_synapse_sees():
    model, batch = Units(), helpers.make_batch(12)
    wiring = rlra_jax.wire_chain(rlra_jax.sites(model, batch['image']))
    plain, marked = (
        next(line.split() for line in rlra_jax.summary(model, w, batch['image']).splitlines() if 'hidden_3->' in line)
        for w in (wiring, mark_batch_norm(wiring))
    )
    assert plain[1:3] == ['dense', 'mirror']
    assert marked[1:4] == ['dense,', 'batch', 'norm']
    assert float(marked[-1]) >= 2 * float(plain[-1])  # two products in place of one
