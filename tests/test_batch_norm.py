"""Errors that lead back through batch normalisation."""

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from apart import forward, loss_gradient

import rlra_jax
from rlra_jax.paths import flatten

TRAIN = {'train': True}


def normed(h, name, train):
    return nn.BatchNorm(use_running_average=not train, name=f'norm_{name}')(h)


class Units(nn.Module):
    """Normalised layers, and a skip around two of them."""

    @nn.compact
    def __call__(self, x, train=False):
        def layer(z, name):
            return normed(nn.Dense(6, name=name)(z), name, train)

        skip = rlra_jax.Site(nn.relu, name='hidden_1')(layer(x, 'dense_1'))
        z = rlra_jax.Site(nn.relu, name='hidden_2')(layer(skip, 'dense_2'))
        z = rlra_jax.Site(nn.relu, name='hidden_3')(layer(z, 'dense_3') + skip)
        return nn.Dense(4, name='readout')(z)


class DenseHead(nn.Module):
    """A hidden layer that is not normalised above one that is."""

    @nn.compact
    def __call__(self, x, train=False):
        z = rlra_jax.Site(nn.relu, name='low')(normed(nn.Dense(8, name='dense_1')(x), 'dense_1', train))
        z = rlra_jax.Site(nn.relu, name='top')(nn.Dense(8, name='dense_2')(z))
        return nn.Dense(4, name='readout')(z)


class PreActivation(nn.Module):
    """Normalisation in front of the activation, and sums that are not normalised."""

    @nn.compact
    def __call__(self, x, train=False):
        z = rlra_jax.Site(lambda h: h, name='stem')(nn.Dense(8, name='dense_1')(x))
        a = rlra_jax.Site(nn.relu, name='act')(normed(z, 'stem', train))
        z = rlra_jax.Site(lambda h: h, name='sum')(z + nn.Dense(8, name='dense_2')(a))
        return nn.Dense(4, name='readout')(rlra_jax.Site(nn.relu, name='last')(normed(z, 'sum', train)))


class TwoNorms(nn.Module):
    """A sum of layers that are normalised each for itself."""

    @nn.compact
    def __call__(self, x, train=False):
        a = rlra_jax.Site(nn.relu, name='a')(normed(nn.Dense(8, name='dense_1')(x), 'dense_1', train))
        b = rlra_jax.Site(nn.relu, name='b')(normed(nn.Dense(8, name='dense_2')(a), 'dense_2', train))
        h = normed(nn.Dense(8, name='left')(a), 'left', train) + normed(nn.Dense(8, name='right')(b), 'right', train)
        return nn.Dense(4, name='readout')(rlra_jax.Site(nn.relu, name='c')(h))


class Head(nn.Module):
    """Normalised logits."""

    @nn.compact
    def __call__(self, x, train=False):
        z = rlra_jax.Site(nn.relu, name='hidden')(nn.Dense(8, name='dense_1')(x))
        return normed(nn.Dense(4, name='readout')(z), 'logits', train)


MODELS = [Units, DenseHead, PreActivation, TwoNorms, Head]


def make(model, scales):
    """(its variables, a batch): kernels and scales of its normalisations as drawn, or others by far; no h is 0."""
    batch = helpers.make_batch(32)
    variables = dict(model.init(jax.random.key(1), batch['image']))
    params = dict(variables['params'])
    for seed, (name, layer) in enumerate(params.items()):
        keys = jax.random.split(jax.random.key(seed))
        bias = 0.1 * jax.random.normal(keys[0], layer['bias'].shape)
        part = 'scale' if name.startswith('norm') else 'kernel'
        factor = jax.random.uniform(keys[1], bias.shape, minval=0.2, maxval=3.0) if scales else 1.0
        params[name] = {'bias': bias, part: factor * layer[part]}
    return {**variables, 'params': params}, batch


@pytest.mark.parametrize('make_model', helpers.quick(MODELS, TwoNorms))
def test_a_path_over_the_own_weights_gives_the_gradient(make_model):
    """What Kolen and Pollack's rule tends to, however large weights become that are normalised afterwards."""
    model = make_model()
    with jax.enable_x64(True):
        variables, batch = make(model, scales=True)
        variables = jax.tree.map(jnp.float64, variables)
        batch = {**batch, 'image': jnp.float64(batch['image'])}
        regions = apart.sites(model, batch['image'], train_kwargs=TRAIN)
        wiring = rlra_jax.wire_reverse(regions, rule=rlra_jax.KolenPollack())
        update = jax.jit(apart.update_fn(model, wiring, beta=1e-6, normalise=True, train_kwargs=TRAIN))
        synapses = helpers.own_weights(wiring, regions, variables['params'])
        feedback = apart.Feedback(synapses, {'step': jnp.int32(0)})
        grads, _, _ = update(variables, feedback, batch, jax.random.key(0))
        exact, _ = loss_gradient(model, variables, batch, jax.random.key(0), train_kwargs=TRAIN)
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(exact))
        for path, own in flatten(grads.params).items():  # a bias that is normalised away has the gradient 0
            np.testing.assert_allclose(own, flatten(exact)[path], atol=1e-4 * largest, err_msg=path)


@pytest.mark.parametrize('make_model', helpers.quick(MODELS, TwoNorms))
def test_mirrors_of_a_normalised_network_give_the_gradient(make_model):
    """Of ResNets: `tests/nn/test_conv_models.py`."""
    model = make_model()
    variables, batch = make(model, scales=False)
    shared = {'wiring': 'reverse', 'normalise': True, 'beta': 1e-3}
    learner = apart.rec_lra(model, batch['image'], train_kwargs=TRAIN, **shared)

    def step(feedback, key):
        grads, feedback, _ = learner.update(variables, feedback, batch, key)
        synapses = jax.tree.map(lambda E, g: E - 0.7 * g, feedback.synapses, grads.synapses)
        return feedback._replace(synapses=synapses), ()

    @jax.jit
    def run():
        feedback = learner.init(jax.random.key(2), variables, batch)
        feedback, _ = jax.lax.scan(step, feedback, jax.random.split(jax.random.key(3), 300))
        return apart.diagnose(model, learner, variables, feedback, batch, jax.random.key(4), train_kwargs=TRAIN)

    found = {name: float(value) for name, value in run().items()}
    assert max(value for name, value in found.items() if name.startswith('angle')) < 3, found
    assert all(0.95 < value < 1.05 for name, value in found.items() if name.startswith('norm_ratio')), found


def _relu(h):
    return np.maximum(h, 0)


def test_an_error_meets_the_statistics_of_the_forward_pass_and_the_synapses_weights():
    """By hand, with a synapse unlike the weights: the error loses its mean and its part along the normalised layer."""
    model, batch = Units(), helpers.make_batch(12)
    variables = dict(model.init(jax.random.key(1), batch['image']))
    wiring = rlra_jax.wire_chain(apart.sites(model, batch['image'], train_kwargs=TRAIN), rule=rlra_jax.KolenPollack())
    feedback = apart.init_feedback(jax.random.key(2), model, wiring, variables, batch['image'], train_kwargs=TRAIN)
    update = apart.update_fn(model, wiring, beta=0.5, train_kwargs=TRAIN)
    grads, _, _ = update(variables, feedback, batch, jax.random.key(0))

    h = jax.tree.map(np.asarray, forward(model, variables, batch['image'], train_kwargs=TRAIN).h)
    e = np.asarray(jax.nn.softmax(h['output'])) - np.eye(4)[batch['label']]
    d = e @ np.asarray(feedback.synapses[0]['output->']['readout/kernel']).T
    e = _relu(h['hidden_3']) - _relu(h['hidden_3'] - 0.5 * d)
    b = h['hidden_3'] - _relu(h['hidden_1'])  # the normalised layer: its scale is 1, its offset 0
    travels = e - e.mean(axis=0) - b * (e * b).mean(axis=0)
    before = _relu(h['hidden_2']) @ np.asarray(variables['params']['dense_3']['kernel'])
    std = np.sqrt(before.var(axis=0) + 1e-5)
    E = np.asarray(feedback.synapses[1]['hidden_3->']['dense_3/kernel'])
    assert abs(helpers.cosine(E, variables['params']['dense_3']['kernel'])) < 0.5
    d = travels / std @ E.T
    assert helpers.cosine(e, travels) < 0.99
    e = _relu(h['hidden_2']) - _relu(h['hidden_2'] - 0.5 * d)
    np.testing.assert_allclose(grads.params['norm_dense_2']['bias'], e.mean(axis=0), atol=1e-5)
    own = {'dense_3/kernel': 'dense_3', 'norm_dense_3/scale': 'norm_dense_3'}
    for path, layer in own.items():  # Kolen and Pollack's two updates are one
        np.testing.assert_array_equal(grads.synapses[1]['hidden_3->'][path], grads.params[layer][path.split('/')[1]])
