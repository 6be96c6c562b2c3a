"""Any loss: what rec-LRA does with it tends to its gradient, where synapses are the weights and beta is small."""

import math

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax import Options
from rlra_jax.loss import loss_and_error, softmax_cross_entropy

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (6, 5, 3))  # examples, tokens, features
MASK = jnp.arange(5)[None] < jnp.arange(1, 7)[:, None]  # an example has one token more than the one before


class Tokens(nn.Module):
    """Two layers, token by token."""

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='one')(nn.Dense(7, name='dense_1')(x))
        z = rlra_jax.Site(jnp.tanh, name='two')(nn.Dense(7, name='dense_2')(z))
        return nn.Dense(4, name='readout')(z)


class Units(nn.Module):
    """The same of the flattened example."""

    @nn.compact
    def __call__(self, x):
        return Tokens(name='tokens')(x.reshape(len(x), -1))


def squared(outputs, batch):
    return optax.l2_loss(outputs, batch['value']).sum(axis=-1)


def smoothed(outputs, batch):
    return optax.softmax_cross_entropy(outputs, optax.smooth_labels(jax.nn.one_hot(batch['label'], 4), 0.1))


def several_labels(outputs, batch):
    return optax.sigmoid_binary_cross_entropy(outputs, batch['labels']).sum(axis=-1)


def weighted(outputs, batch):
    return batch['weight'] * softmax_cross_entropy(outputs, batch)


def masked_tokens(outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch['tokens'])
    return (losses * batch['mask']).sum(axis=-1) / batch['mask'].sum(axis=-1)


CASES = {
    'mean squared error': (Units(), squared, {'value': jax.random.normal(KEY, (6, 4))}),
    'label smoothing': (Units(), smoothed, {'label': jnp.arange(6) % 4}),
    'several labels': (Units(), several_labels, {'labels': jax.random.bernoulli(KEY, 0.5, (6, 4)).astype(float)}),
    'weights of examples': (Units(), weighted, {'label': jnp.arange(6) % 4, 'weight': jnp.arange(6.0)}),
    'tokens with a mask': (Tokens(), masked_tokens, {'tokens': jnp.arange(30).reshape(6, 5) % 4, 'mask': MASK}),
    'tokens': (Tokens(), softmax_cross_entropy, {'label': jnp.arange(30).reshape(6, 5) % 4}),
}


@pytest.mark.parametrize('name', CASES)
def test_the_update_tends_to_the_gradient_of_the_loss(name):
    model, loss, batch = CASES[name]
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, {'image': X, **batch})
        net = rlra_jax.regions(model, batch)
        wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.Fixed())
        update = rlra_jax.update_fn(net, wiring, Options(beta=1e-7, normalise=True), loss=loss)
        weights, state = update.init(KEY)
        weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), weights)
        weights['synapses'] = helpers.own_weights(wiring, net.regions, weights['params'])
        grads, _, aux = jax.jit(update)(weights, state, batch, KEY)

        def mean_loss(params):
            return loss(model.apply({'params': params}, batch['image']), batch).mean()

        value, expected = jax.value_and_grad(mean_loss)(weights['params'])
        np.testing.assert_allclose(aux.loss, value, rtol=1e-9)
        for came, exact in zip(jax.tree.leaves(grads['params']), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(came, exact, atol=1e-5 * np.abs(exact).max())


# Decoders that are dense, and states that settle, want an example's activities in one row.
TAKE_TOKENS = [n for n in rlra_jax.LEARNERS if n not in ('target_prop', 'difference_target_prop')]


@pytest.mark.parametrize(
    'name', helpers.quick(rlra_jax.LEARNERS, 'equilibrium_prop', 'lra_e', 'target_prop', 'weight_mirror')
)
def test_every_learner_takes_the_same_loss(name):
    model, loss, batch = CASES['mean squared error']
    batch = {'image': X, **batch}
    net = rlra_jax.regions(model, batch)
    learner = rlra_jax.LEARNERS[name](net, loss=loss)
    weights, state = learner.init(KEY)
    grads, _, aux = jax.jit(learner)(weights, state, batch, KEY)
    if name != 'equilibrium_prop':  # its loss is that of its equilibrium
        expected = loss(model.apply({'params': weights['params']}, X), batch).mean()
        np.testing.assert_allclose(aux.loss, expected, rtol=1e-5)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads['params']))


@pytest.mark.parametrize('name', helpers.quick(TAKE_TOKENS, 'backprop', 'rec_lra', 'weight_mirror'))
def test_outputs_may_be_tokens(name):
    model, loss, batch = CASES['tokens with a mask']
    batch = {'image': X, **batch}
    learner = rlra_jax.LEARNERS[name](rlra_jax.regions(model, batch), loss=loss)
    weights, state = learner.init(KEY)
    grads, _, aux = jax.jit(learner)(weights, state, batch, KEY)
    assert aux.outputs.shape == (6, 5, 4)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads['params']))


@pytest.mark.parametrize(
    ('loss', 'message'),
    [
        (lambda outputs, batch: outputs.mean(), r'a number for each of the 6 examples; got shape \(\)'),
        (lambda outputs, batch: outputs, r'a number for each of the 6 examples; got shape \(6, 4\)'),
    ],
)
def test_a_loss_of_another_shape(loss, message):
    with pytest.raises(ValueError, match=message):
        loss_and_error(loss, jnp.zeros((6, 4)), {})


@pytest.mark.parametrize('name', helpers.quick(rlra_jax.LEARNERS, 'equilibrium_prop', 'rec_lra'))
def test_no_learner_takes_the_mean_for_a_loss_of_each(name):
    learner = rlra_jax.LEARNERS[name](
        rlra_jax.regions(
            rlra_jax.nn.MLP(widths=(5, 5), classes=4), batch := {'image': X[:, 0], 'label': jnp.arange(6) % 4}
        ),
        loss=lambda outputs, batch: softmax_cross_entropy(outputs, batch).mean(),
    )
    weights, state = learner.init(KEY)
    with pytest.raises(ValueError, match=r'a number for each of the 6 examples; got shape \(\)'):
        learner(weights, state, batch, KEY)


def test_what_is_no_loss():
    net = rlra_jax.regions(Units(), {'image': X})
    with pytest.raises(ValueError, match='loss must be a function of outputs and batch'):
        rlra_jax.update_fn(net, loss='mse')


def test_the_default_loss_names_the_labels_that_it_wants():
    with pytest.raises(ValueError, match=r'an integer class for each row of the outputs \(6, 4\); got NoneType'):
        softmax_cross_entropy(jnp.zeros((6, 4)), {'image': X})


@pytest.mark.parametrize('loss', [softmax_cross_entropy, rlra_jax.smoothed_cross_entropy(0.1)])
def test_the_default_loss_wants_one_output(loss):
    with pytest.raises(ValueError, match=r"several outputs, \['a', 'b'\]: hand over a loss of them"):
        loss({'a': jnp.zeros((6, 4)), 'b': jnp.zeros((6, 2))}, {'image': X})


def test_classes_are_counted_on_the_last_axis_and_labels_beyond_them_are_told():
    outputs, label = jnp.zeros((2, 3, 5)), jnp.array([[0, 1, 4], [4, 3, 2]])
    np.testing.assert_allclose(softmax_cross_entropy(outputs, {'label': label}), np.log(5), rtol=1e-6)
    with pytest.raises(ValueError, match='labels of 5 classes run from 0 to 4; got -1 to 7'):
        softmax_cross_entropy(outputs, {'label': label.at[0].set(jnp.array([7, -1, 2]))})


@pytest.mark.parametrize('tokens', [(), (5,)])
def test_smoothed_labels_are_those_of_optax_and_so_is_the_error(tokens):
    label = jnp.arange(30)[: 6 * math.prod(tokens)].reshape(6, *tokens) % 4
    outputs, batch = jax.random.normal(KEY, (6, *tokens, 4)), {'label': label}
    targets = optax.smooth_labels(jax.nn.one_hot(batch['label'], 4), 0.1)

    def total(outputs):
        return optax.softmax_cross_entropy(outputs, targets).reshape(6, -1).mean(axis=1).sum()

    mean, e_L = loss_and_error(rlra_jax.smoothed_cross_entropy(0.1), outputs, batch)
    np.testing.assert_allclose(mean, total(outputs) / 6, rtol=1e-6)
    np.testing.assert_allclose(e_L, jax.grad(total)(outputs), rtol=1e-5, atol=1e-7)
    assert rlra_jax.smoothed_cross_entropy(0.0) is softmax_cross_entropy
    with pytest.raises(ValueError, match=r'share must be a number from 0 to 1; got 1\.1'):
        rlra_jax.smoothed_cross_entropy(1.1)
