"""Models that return several arrays by name: each is a root of the recursion."""

import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax import Dense, Mirror
from rlra_jax.parallel import level_update_fn, make_mesh, stage_step, stream_update_fn

OUTPUTS = ('output/label', 'output/signal')


class TwoHeads(nn.Module):
    """A class from the upper layer, and a signal of two steps from the lower one."""

    @nn.compact
    def __call__(self, x):
        z = low = rlra_jax.Site(jnp.tanh, name='low')(nn.Dense(6, name='first')(x))
        z = rlra_jax.Site(jnp.tanh, name='high')(nn.Dense(5, name='second')(z))
        signal = nn.Dense(6, name='decoder')(low).reshape(len(x), 2, 3)
        return {'signal': signal, 'label': nn.Dense(4, name='classifier')(z)}


def loss(outputs, batch):
    classes = optax.softmax_cross_entropy_with_integer_labels(outputs['label'], batch['label'])
    return classes + ((outputs['signal'] - batch['signal']) ** 2).sum(axis=(1, 2))


def made(size=12):
    batch = {**helpers.make_batch(size), 'signal': jax.random.normal(jax.random.key(3), (size, 2, 3))}
    return rlra_jax.regions(TwoHeads(), batch), batch


def wired(net, wiring):
    return {(edge.source, edge.target) for edge in wiring(net).edges}


def test_regions_hear_the_outputs_that_they_feed():
    net, _ = made()
    assert [region.name for region in net] == ['low', 'high', *OUTPUTS]
    both = {('output/label', 'low'), ('output/signal', 'low'), ('output/label', 'high')}
    assert wired(net, rlra_jax.wire_direct) == both
    assert wired(net, lambda net: rlra_jax.wire_auto(net, devices=2)) == both
    chain = {('high', 'low'), ('output/label', 'high'), ('output/signal', 'low')}
    assert wired(net, rlra_jax.wire_chain) == wired(net, rlra_jax.wire_reverse) == chain


class Branches(nn.Module):
    """Two heads, each with a region of its own in a module of its own, on a trunk."""

    @nn.compact
    def __call__(self, x):
        trunk = rlra_jax.Site(jnp.tanh, name='trunk')(nn.Dense(6)(x))
        left = rlra_jax.Site(jnp.tanh, name='left')(nn.Dense(5)(trunk))
        right = rlra_jax.Site(jnp.tanh, name='right')(nn.Dense(5)(trunk))
        return {'label': nn.Dense(4)(left), 'signal': nn.Dense(6)(right).reshape(len(x), 2, 3)}


def one_block_and_another(name):
    return name == 'right'


@pytest.mark.parametrize(
    'wire',
    [
        rlra_jax.wire_chain,
        rlra_jax.wire_blocks,
        functools.partial(rlra_jax.wire_auto, devices=1),
        functools.partial(rlra_jax.wire_modules, block=one_block_and_another),
    ],
    ids=['chain', 'blocks', 'auto', 'modules'],
)
def test_the_errors_of_every_output_come_to_what_feeds_it(wire):
    """Also to a region whose way to an output does not lead through the region that it hears."""
    batch = {**helpers.make_batch(), 'signal': jax.random.normal(jax.random.key(3), (12, 2, 3))}
    net = rlra_jax.regions(Branches(), batch)

    def of_the_last(outputs, batch):
        return ((outputs['signal'] - batch['signal']) ** 2).sum(axis=(1, 2))

    update = rlra_jax.update_fn(net, wire(net), loss=of_the_last)
    weights, state = update.init(jax.random.key(0))
    grads, _, _ = update(weights, state, batch, jax.random.key(1))
    assert np.abs(grads['params']['Dense_0']['kernel']).max() > 1e-4


def test_reverse_over_the_weights_is_backprop():
    net, batch = made()
    wiring = rlra_jax.wire_reverse(net)
    update = rlra_jax.update_fn(net, wiring, rlra_jax.Options(beta=1e-3, normalise=True), loss=loss)
    weights, state = update.init(jax.random.key(0))
    weights['synapses'] = helpers.own_weights(wiring, net, weights['params'])
    grads, _, aux = update(weights, state, batch, jax.random.key(1))
    exact = jax.grad(lambda params: loss(TwoHeads().apply({'params': params}, batch['image']), batch).mean())
    for came, expected in zip(*map(jax.tree.leaves, (grads['params'], exact(weights['params']))), strict=True):
        np.testing.assert_allclose(came, expected, atol=5e-3 * np.abs(expected).max())
    assert aux.outputs['signal'].shape == (12, 2, 3)
    assert aux.loss == loss(aux.outputs, batch).mean()


def test_straight_synapses_learn_the_responses_of_all_outputs():
    net, batch = made(64)
    wiring = rlra_jax.wire_direct(net, kind=Dense(), rule=Mirror())
    update = rlra_jax.update_fn(net, wiring, loss=loss)
    weights, state = update.init(jax.random.key(0))

    @jax.jit
    def learn(weights, state, key):
        grads, state, _ = update(weights, state, batch, key)
        synapses = jax.tree.map(lambda E, g: E - 0.3 * g, weights['synapses'], grads['synapses'])
        return {**weights, 'synapses': synapses}, state

    for i in range(300):
        weights, state = learn(weights, state, jax.random.key(i))
    (E,) = weights['synapses']
    for output, target, kernel in (('label', 'high', 'classifier'), ('signal', 'low', 'decoder')):
        expected = weights['params'][kernel]['kernel'].T
        np.testing.assert_allclose(E[f'output/{output}->{target}'].reshape(expected.shape), expected, atol=0.05)


@pytest.mark.parametrize(
    'name', helpers.quick(sorted(rlra_jax.LEARNERS), 'equilibrium_prop', 'rec_lra', 'target_prop', 'weight_mirror')
)
def test_every_learner_takes_several_outputs_or_says_why_not(name):
    net, batch = made()
    make = rlra_jax.LEARNERS[name]
    if name in ('target_prop', 'difference_target_prop'):
        with pytest.raises(ValueError, match=r"up to one output; here are \['output/label', 'output/signal'\]"):
            make(net, loss=loss)
        return
    update = make(net, loss=loss)
    weights, state = update.init(jax.random.key(0))
    grads, _, aux = jax.jit(update)(weights, state, batch, jax.random.key(1))
    assert aux.outputs['label'].shape == (12, 4)
    for path, leaf in jax.tree.leaves_with_path(grads['params']):
        assert np.abs(leaf).max() > 1e-4, path
    exact = jax.grad(lambda params: loss(net.apply({'params': params}, batch)[0], batch).mean())(weights['params'])
    if name != 'equilibrium_prop':  # whose outputs are those of an equilibrium
        for head in ('classifier', 'decoder'):
            np.testing.assert_allclose(grads['params'][head]['kernel'], exact[head]['kernel'], atol=2e-4)  # kp decays


class Private(nn.Module):
    """Each region has a readout of its own, one module for both, and hears no other."""

    @nn.compact
    def __call__(self, x):
        outputs, read = {}, nn.Dense(4, name='read')
        for name in ('low', 'high'):
            z = rlra_jax.Site(jnp.tanh, name=name)(nn.Dense(5, name=f'dense_{name}')(x))
            x, outputs[name] = jax.lax.stop_gradient(z), read(z)
        return outputs


def test_private_readouts_teach_their_own_regions_alone():
    def each(outputs, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels
        return losses(outputs['low'], batch['label']) + 2 * losses(outputs['high'], batch['label'])

    batch = helpers.make_batch()
    net = rlra_jax.regions(Private(), batch)
    wiring = rlra_jax.wire_modules(net, rule=rlra_jax.KolenPollack(equal=True), overlap=1)
    assert {edge.name for edge in wiring.edges} == {'output/low->low', 'output/high->high'}
    update = rlra_jax.update_fn(net, wiring, rlra_jax.Options(beta=1e-3, normalise=True), loss=each)
    weights, state = update.init(jax.random.key(0))
    grads, _, _ = jax.jit(update)(weights, state, batch, jax.random.key(1))
    exact = jax.grad(lambda params: each(Private().apply({'params': params}, batch['image']), batch).mean())
    for came, expected in zip(*map(jax.tree.leaves, (grads['params'], exact(weights['params']))), strict=True):
        np.testing.assert_allclose(came, expected, atol=5e-3 * np.abs(expected).max())


def level(net, mesh):
    update = level_update_fn(net, rlra_jax.wire_direct, mesh, loss=loss)
    return update(*update.init(jax.random.key(0)), made()[1], jax.random.key(1))


def stage(net, mesh):
    return stage_step(net, rlra_jax.wire_direct, mesh, rlra_jax.optimizers(optax.sgd(0.1)), loss=loss)


def stream(net, mesh):
    return stream_update_fn(net, rlra_jax.wire_direct, loss=loss)


@pytest.mark.parametrize('mode', [level, stage, stream])
def test_parallel_modes_take_one(mode):
    net, mesh = made()[0], make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"one array; here errors come from \['output/label', 'output/signal'\]"):
        mode(net, mesh)


def test_a_site_called_as_the_outputs_are_is_no_output():
    class Clash(nn.Module):
        @nn.compact
        def __call__(self, x):
            return {'label': rlra_jax.Site(jnp.tanh, name='output')(nn.Dense(4)(x))}

    _, batch = made()
    assert [region.name for region in rlra_jax.regions(Clash(), batch)] == ['output', 'output/label']


def test_names_of_outputs_are_strings():
    batch = helpers.make_batch()
    with pytest.raises(ValueError, match=r'the names of several outputs must be strings; got \[0\]'):
        rlra_jax.regions(nn.Dense(4), batch, call=lambda module, batch: {0: module(batch['image'])})


@pytest.mark.parametrize('outputs', [{}, {'label': None}, {'label': jnp.ones(3)}, {'a': {'b': jnp.ones((12, 3))}}])
def test_outputs_that_are_none(outputs):
    batch = helpers.make_batch()
    with pytest.raises(ValueError, match=r'a floating array \[B, ...\], here \[12, ...\], or several by name; got'):
        rlra_jax.regions(nn.Dense(4), batch, call=lambda module, batch: module(batch['image']) is None or outputs)
