"""Recurrent networks, learnt through time: an oracle, backprop's limit, mirrors, and every learner."""

import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recurrent_oracle
from learner_cases import CASES

import rlra_jax
from rlra_jax import Fixed, KolenPollack, Mirror, Options, Site
from rlra_jax.experiment import names
from rlra_jax.experiment.data import load
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.capture import OUTPUT, forward
from rlra_jax.paths import flatten, readable
from rlra_jax.recursion.update import look, recur
from rlra_jax.types import variables_of

KEY = jax.random.key(7)


def sequences(size=6, steps=5, features=3, every_step=False, dtype=jnp.float32):
    key_image, key_label = jax.random.split(jax.random.key(0))
    label = jax.random.randint(key_label, (size, steps) if every_step else (size,), 0, 4)
    return {'image': jax.random.normal(key_image, (size, steps, features), dtype), 'label': label}


def started(net, wiring, **options):
    """(update, weights, state) of rec-LRA with errors over beta."""
    update = rlra_jax.update_fn(net, wiring, Options(normalise=True, **options), synapse_std=0.3)
    return update, *update.init(KEY)


def over_the_parameters(net, wiring, weights):
    """Weights whose synapses are the parameters that they stand for."""
    return {**weights, 'synapses': helpers.own_weights(wiring, net, weights['params'])}


@pytest.mark.parametrize(('through', 'every_step'), [('none', True), (2, True), ('chain', False)])
def test_an_elman_network_in_numpy_loops(through, every_step):
    with jax.enable_x64(True):
        batch = sequences(every_step=every_step, dtype=jnp.float64)
        net = rlra_jax.regions(rlra_jax.nn.Elman(4, 4, every_step=every_step, param_dtype=jnp.float64), batch)
        wiring = rlra_jax.wire_time(net, through=through, rule=KolenPollack())
        update, weights, state = started(net, wiring, beta=0.7)
        weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), weights)
        grads, _, _ = update(weights, state, batch, KEY)

        params, E = by_letter(weights['params']), by_end(weights['synapses'])
        x, label = np.asarray(batch['image']), np.asarray(batch['label'])
        dW, dE = recurrent_oracle.step(params, E, x, label, through, every_step, beta=0.7)
        for name, leaf in by_letter(grads['params']).items():
            assert np.abs(dW[name]).max() > 1e-3
            np.testing.assert_allclose(leaf, dW[name], rtol=0, atol=1e-9, err_msg=name)
        dE = dict.fromkeys(dE, sum(dE.values()))  # steps share E, as they share U
        for name, leaf in by_end(grads['synapses']).items():  # of a path, the very update of the parameter
            np.testing.assert_allclose(leaf, (dW | dE)[name], rtol=0, atol=1e-9, err_msg=name)


LETTERS = {
    'input/kernel': 'W',
    'input/bias': 'b',
    'recurrent/kernel': 'U',
    'readout/kernel': 'V',
    'readout/bias': 'c',
}


def by_letter(params):
    return {LETTERS[readable(path)]: np.asarray(leaf) for path, leaf in flatten(params).items()}


def by_end(synapses):
    """{U or V: E} of paths, all of which must have the same, and {step: E} of those from afar."""
    found = {}
    for name, E in ((name, E) for level in synapses for name, E in level.items()):
        own = by_letter(E) if name.endswith('->') else {int(name.rpartition('#')[2]): np.asarray(E)}
        for end in own.keys() & found.keys():
            np.testing.assert_array_equal(own[end], found[end])
        found |= own
    return found


class Tied(nn.Module):
    """One layer three times over, between a table that embeds and reads out."""

    @nn.compact
    def __call__(self, x):
        table = self.param('table', nn.initializers.normal(0.5), (4, 6))
        layer, act = nn.Dense(6, name='layer'), Site(jnp.tanh, name='act')
        z = act(x[:, 0, :1] * table.sum(axis=0) + 1)
        for _ in range(3):
            z = act(layer(z))
        return z @ table.T


MODELS = {
    'elman': rlra_jax.nn.Elman(5, 4),
    'gru': rlra_jax.nn.GRU(5, 4),
    'gru, read at every step': rlra_jax.nn.GRU(5, 4, every_step=True),
    'tied': Tied(),
}


@pytest.mark.parametrize('name', helpers.quick(MODELS, 'gru', 'tied'))
def test_over_the_parameters_errors_are_the_gradient(name):
    with jax.enable_x64(True):
        batch = sequences(every_step='every' in name, dtype=jnp.float64)
        net = rlra_jax.regions(MODELS[name], batch)
        wiring = rlra_jax.wire_time(net, rule=Fixed())
        update, weights, state = started(net, wiring, beta=1e-6)
        weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), weights)
        own = over_the_parameters(net, wiring, weights)
        grads, _, _ = jax.jit(update)(own, state, batch, KEY)

        def loss(params):
            return softmax_cross_entropy(net.apply({'params': params}, batch)[0], batch).mean()

        for path, g in flatten(jax.grad(loss)(weights['params'])).items():
            atol = 1e-4 * float(jnp.abs(g).max())
            np.testing.assert_allclose(flatten(grads['params'])[path], g, rtol=0, atol=atol, err_msg=path)


def cosines(net, wiring, weights, state, batch, options):
    """{region: cosine of what its own errors alone give the parameters with what backprop's would}."""
    _, pull, context = look(net, wiring, options, softmax_cross_entropy, weights, state, batch, KEY)
    variables = variables_of(weights, state)

    def loss(shift):
        def leave(name, z):
            return z + shift[name].astype(z.dtype)

        outputs = forward(net, variables, batch, leave=leave).h[OUTPUT]
        return softmax_cross_entropy(outputs, batch).sum()

    down = jax.grad(loss)({name: jnp.zeros_like(context.h[name]) for name in context.phi})
    exact = {name: jax.vjp(phi, context.h[name])[1](down[name])[0] for name, phi in context.phi.items()}
    ours, found = recur(context).e, {}
    for region in context.phi:
        only = {name: jnp.zeros_like(h) for name, h in context.h.items()}
        found[region] = helpers.cosine(*(pull({**only, region: errors[region]}) for errors in (ours, exact)))
    return found


@pytest.mark.full
@pytest.mark.parametrize('name', ['elman', 'gru'])
def test_mirrors_find_the_way_back_through_time(name):
    """300 noisy passes on standing weights."""
    batch = sequences(32, 8, 6)
    net = rlra_jax.regions(rlra_jax.nn.MODELS[name](16, 4), batch)
    wiring, options = rlra_jax.wire_time(net, rule=Mirror()), Options(normalise=True, beta=0.01)
    update = rlra_jax.update_fn(net, wiring, options)
    weights, state = update.init(KEY)
    before = cosines(net, wiring, weights, state, batch, options)

    def passing(weights, key):
        grads, _, _ = update(weights, state, batch, key)
        moved = jax.tree.map(jnp.subtract, weights['synapses'], grads['synapses'])
        return {**weights, 'synapses': moved}, None

    keys = jax.random.split(jax.random.key(5), 300)
    weights, _ = jax.jit(lambda weights: jax.lax.scan(passing, weights, keys))(weights)
    found = cosines(net, wiring, weights, state, batch, options)
    assert min(before.values()) < 0.5
    assert min(found.values()) > 0.99, found


@functools.cache
def digits():
    data = load('digits')
    return tuple(
        {'image': jnp.asarray(split.image, jnp.float32) * jnp.float32(data.scale), 'label': jnp.asarray(split.label)}
        for split in (data.train, data.test)
    )


# Test error in % after 20 epochs; guessing: 90. The state below is not to be had from the state above alone, without
# the row that was read between them: inverses that are not corrected for it lead astray.
ERRORS = dict.fromkeys(CASES, 15) | {'target_prop': 80}
QUICK = ('equilibrium_prop',)  # rec_lra has tests of its own


def test_direct_feedback_has_a_synapse_for_each_call():
    """Over one that is fixed, all rows would be told the same."""
    net = rlra_jax.regions(rlra_jax.nn.Elman(width=4), {'image': jnp.ones((2, 3, 5)), 'label': jnp.zeros(2, int)})
    weights, _ = rlra_jax.LEARNERS['direct_feedback_alignment'](net).init(KEY)
    first, second, third = (E for level in weights['synapses'] for name, E in level.items() if '->state#' in name)
    assert np.any(first != second)
    assert np.any(second != third)


@pytest.mark.parametrize('name', helpers.quick(CASES, *QUICK))
def test_every_learner_reads_digits_row_by_row(name):
    train, test = digits()
    net = rlra_jax.regions(rlra_jax.nn.Elman(width=64), {name: leaf[:50] for name, leaf in train.items()})
    options = {'normalise': True} if name in ('rec_lra', 'lra_e') else {}
    options |= {'wiring': 'time'} if name == 'rec_lra' else {}
    options = names.named({**CASES[name].options, **options, 'name': name})
    learner = rlra_jax.LEARNERS[options.pop('name')](net, **options)
    # Mirrors regress; decoders descend a loss, and what takes the forward updates takes their optimizer.
    synapses = optax.sgd(0.3) if 'wm' in name or name in ('rec_lra', 'weight_mirror') else optax.adam(1e-3)
    step = rlra_jax.make_train_step(learner, rlra_jax.optimizers(optax.adam(1e-3), synapses))

    def body(state, key):
        index = jax.random.randint(key, (50,), 0, len(train['label']))
        return step.update(state, {k: v[index] for k, v in train.items()}, key)

    keys = jax.random.split(jax.random.key(2), 20 * 24)
    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, keys))(step.init(jax.random.key(0)))
    predict = learner.predict or (lambda variables, batch: net.apply(variables, batch)[0])
    outputs = jax.jit(predict)(state.variables, test)
    assert 100 * (outputs.argmax(axis=1) != test['label']).mean() < ERRORS[name]


@pytest.mark.parametrize(
    ('make', 'through'),
    [
        pytest.param(rlra_jax.nn.Elman, 'none', marks=pytest.mark.full),
        pytest.param(rlra_jax.nn.Elman, 2, marks=pytest.mark.full),
        pytest.param(rlra_jax.nn.GRU, 'chain', marks=pytest.mark.full),
        (rlra_jax.nn.GRU, 'none'),
        pytest.param(rlra_jax.nn.GRU, 2, marks=pytest.mark.full),
    ],
)
def test_every_region_learns_what_lowers_the_loss(make, through):
    """With mirrors that have seen 100 noisy passes: what each region's errors alone give the parameters."""
    batch = sequences(32, 4)
    net = rlra_jax.regions(make(8, 4), batch)
    wiring, options = rlra_jax.wire_time(net, through=through, rule=Mirror()), Options(normalise=True)
    update = rlra_jax.update_fn(net, wiring, options)
    weights, state = update.init(KEY)

    def passing(weights, key):
        grads, _, _ = update(weights, state, batch, key)
        moved = jax.tree.map(lambda E, g: E - 0.5 * g, weights['synapses'], grads['synapses'])
        return {**weights, 'synapses': moved}, None

    keys = jax.random.split(jax.random.key(5), 100)
    weights, _ = jax.jit(lambda weights: jax.lax.scan(passing, weights, keys))(weights)
    found = cosines(net, wiring, weights, state, batch, options)
    assert min(found.values()) > 0.1, found  # without a way through time the steps share one synapse


class Twice(nn.Module):
    """One Site between layers of their own."""

    @nn.compact
    def __call__(self, x):
        act, z = Site(jnp.tanh, name='act'), x[:, 0]
        for i in range(2):
            z = act(nn.Dense(5, name=f'dense_{i}')(z))
        return nn.Dense(4, name='readout')(z)


@pytest.mark.parametrize('rule', [KolenPollack(), Mirror()])
def test_calls_with_the_same_parameters_share_their_synapse(rule):
    batch = sequences(steps=3)
    found = {}
    for share in ('calls', 'none'):
        net = rlra_jax.regions(rlra_jax.nn.Elman(5, 4), batch)
        wiring = rlra_jax.wire_direct(net, kind=rlra_jax.Dense(share=share), rule=rule)
        update, weights, state = started(net, wiring, beta=0.5)
        found[share] = [*weights['synapses'][0].values()]
        if share == 'calls':
            first = weights
        grads, _, _ = jax.jit(update)(first, state, batch, KEY)
        found[f'{share}, learnt'] = [*grads['synapses'][0].values()]
    same, own = found['calls'], found['none']
    assert all((same[0] == E).all() for E in same)
    assert not any(np.allclose(E, own[0]) for E in own[1:])
    total = sum(found['none, learnt']) / (len(own) if rule.noisy else 1)
    for learnt in found['calls, learnt']:
        np.testing.assert_allclose(learnt, total, rtol=1e-5, atol=1e-7)

    wiring = rlra_jax.wire_direct(rlra_jax.regions(Twice(), batch), kind=rlra_jax.Dense(), rule=rule)
    assert [edge.share for edge in wiring.edges] == [None, None]
    with pytest.raises(ValueError, match="share must be 'calls' or 'none'; got 'all'"):
        rlra_jax.Dense(share='all')
