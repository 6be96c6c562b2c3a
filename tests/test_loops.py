"""Layers and steps in loops that JAX traces once learn as the same ones, one by one."""

import dataclasses
import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from loop_models import Deep, Layers, Leaking, NNXLayers, Recurrent, Stream, Streamed, Twice, rows

import rlra_jax
from rlra_jax import LEARNERS, Carries, Dense, Fixed, Hebbian, KolenPollack, Mirror, Options
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.walk import inner_programs
from rlra_jax.paths import flatten
from rlra_jax.recursion.loop import _answering

KEY = jax.random.key(7)


def double(tree):
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def both(net, rule, carries=Carries.ERROR):
    """Every region of a loop from the output over a dense synapse, and all along the forward path back."""
    back = [
        dataclasses.replace(edge, carries=carries)
        for edge in rlra_jax.wire_reverse(net, rule=rule).edges
        if edge.source != 'output'
    ]
    direct = rlra_jax.wire_direct(net, kind=Dense(), rule=rule).edges
    return rlra_jax.wire(net, [*(edge for edge in direct if edge.target != 'stem_act'), *back])


WIRINGS = {
    'direct': functools.partial(rlra_jax.wire_direct, kind=Dense()),
    'reverse': rlra_jax.wire_reverse,
    'chain': rlra_jax.wire_chain,
    'both': both,
    'overlap': functools.partial(both, carries=Carries.OWN),
}
QUICK = [('direct', Hebbian()), ('reverse', KolenPollack()), ('overlap', KolenPollack())]


def one_by_one(tree, depth):
    """{'layers/up/kernel': [depth, ...]} -> {'block_0/up/kernel': ...}."""
    found = {}
    for path, leaf in tree.items():
        if path.startswith('layers/'):
            found |= {path.replace('layers', f'block_{i}'): leaf[i] for i in range(depth)}
        else:
            found[path] = leaf
    return found


def by_path(synapses, depth):
    """An error-pathway pytree as {path of a parameter, or name of a target: E}, of layers one by one."""
    found = {}
    for name, E in ((name, E) for level in synapses for name, E in level.items()):
        found |= E if name.endswith('->') else {name.partition('->')[2]: E}
    return one_by_one(found, depth)


@pytest.mark.parametrize(
    ('name', 'rule'),
    [
        pytest.param(name, rule, marks=() if (name, rule) in QUICK else pytest.mark.full)
        for name in WIRINGS
        for rule in (KolenPollack(), Hebbian())
        if (name, rule) != ('overlap', Hebbian())  # where regions have errors of their own, it is refused
    ],
)
def test_scanned_layers_learn_as_one_by_one(name, rule):
    with jax.enable_x64(True):
        depth, batch, residual = 3, double(helpers.make_batch()), name != 'chain'
        options = Options(beta=0.5, normalise=True)
        scanned = rlra_jax.regions(Layers(depth, residual=residual), batch)
        plain = rlra_jax.regions(Layers(depth, scanned=False, residual=residual), batch)
        wirings = [WIRINGS[name](net, rule=rule) for net in (scanned, plain)]
        update, other = (
            rlra_jax.update_fn(net, wiring, options, synapse_std=0.3)
            for net, wiring in zip((scanned, plain), wirings, strict=True)
        )
        weights, state = update.init(KEY)
        weights = double(weights)
        grads, _, aux = jax.jit(update)(weights, state, batch, KEY)

        like, own_state = other.init(KEY)
        params = one_by_one(flatten(weights['params']), depth)
        E = by_path(weights['synapses'], depth)
        own = {
            'params': rlra_jax.paths.refill(like['params'], params),
            'synapses': refilled(like['synapses'], E),
        }
        expected, _, expected_aux = jax.jit(other)(own, own_state, batch, KEY)
        np.testing.assert_allclose(aux.discrepancy, expected_aux.discrepancy, rtol=1e-9)
        came = one_by_one(flatten(grads['params']), depth)
        for path, leaf in flatten(expected['params']).items():
            assert np.abs(leaf).max() > 1e-4, path
            np.testing.assert_allclose(came[path], leaf, rtol=0, atol=1e-9, err_msg=path)
        came = by_path(grads['synapses'], depth)
        wanted = by_path(expected['synapses'], depth)
        assert came.keys() == wanted.keys()
        for path, leaf in wanted.items():
            np.testing.assert_allclose(came[path], leaf, rtol=0, atol=1e-9, err_msg=path)


def refilled(synapses, E):
    """Synapses like these, with what `by_path` has."""

    def fill(name, own):
        return {path: E[path] for path in own} if name.endswith('->') else E[name.partition('->')[2]]

    return tuple({name: fill(name, own) for name, own in level.items()} for level in synapses)


@pytest.mark.parametrize('name', helpers.quick(['direct', 'reverse'], 'reverse'))
def test_scanned_steps_learn_as_one_by_one(name):
    """Which share their parameters, and so their synapse from the output."""
    with jax.enable_x64(True):
        batch, learnt, kept = double(rows()), [], {}
        for scanned in (True, False):
            net = rlra_jax.regions(Recurrent(scanned=scanned), batch)
            wiring = WIRINGS[name](net, rule=KolenPollack())
            update = rlra_jax.update_fn(net, wiring, Options(beta=0.5, normalise=True), synapse_std=0.3)
            weights, state = update.init(KEY)
            kept = kept or {'params': double(weights['params']), **once(double(weights['synapses']))}
            weights = {'params': kept['params'], 'synapses': filled(weights['synapses'], kept)}
            grads, _, _ = jax.jit(update)(weights, state, batch, KEY)
            learnt.append(flatten({'params': grads['params'], **once(grads['synapses'])}))
        ours, expected = learnt
        for path, leaf in expected.items():
            assert np.abs(leaf).max() > 1e-3, path
            np.testing.assert_allclose(ours[path], leaf, rtol=0, atol=1e-9, err_msg=path)


def once(synapses):
    """An error-pathway pytree as {path of a parameter, or 'afar': E}; copies must be alike."""
    found = {}
    for name, E in ((name, E) for level in synapses for name, E in level.items()):
        for part, value in (E if name.endswith('->') else {'afar': E}).items():
            np.testing.assert_allclose(found.setdefault(part, value), value, rtol=0, atol=1e-12)
    return found


def filled(synapses, E):
    """Synapses like these, of what `once` returns."""

    def fill(name, own):
        return {path: E[path] for path in own} if name.endswith('->') else E['afar']

    return tuple({name: fill(name, own) for name, own in level.items()} for level in synapses)


def over_the_parameters(net, wiring, weights):
    """Weights whose synapses are the parameters that they stand for."""
    return {**weights, 'synapses': helpers.own_weights(wiring, net, weights['params'])}


MODELS = {
    'in remat': (lambda: Layers(wrap=nn.remat), helpers.make_batch),
    'in jit': (lambda: Layers(wrap=nn.jit), helpers.make_batch),
    'along another axis': (lambda: Layers(axis=1), helpers.make_batch),
    'steps': (Recurrent, rows),
    'steps, read at each': (lambda: Recurrent(every_step=True), functools.partial(rows, every_step=True)),
    'steps within layers': (Deep, rows),
    'nnx': (lambda: NNXLayers(nnx.Rngs(0)), helpers.make_batch),
}


@pytest.mark.parametrize('name', helpers.quick(MODELS, 'in remat', 'steps within layers', 'nnx'))
def test_over_the_parameters_errors_are_the_gradient(name):
    make, batch = MODELS[name]
    with jax.enable_x64(True):
        batch = double(batch())
        net = rlra_jax.regions(make(), batch)
        wiring = rlra_jax.wire_reverse(net, rule=Fixed())
        update = rlra_jax.update_fn(net, wiring, Options(beta=1e-6, normalise=True))
        weights, state = update.init(KEY, double(net.init(KEY)))
        assert not any(region.shares for region in net) or name[:5] == 'steps'
        own = over_the_parameters(net, wiring, weights)
        grads, _, _ = jax.jit(update)(own, state, batch, KEY)

        def loss(params):
            return softmax_cross_entropy(net.apply({'params': params}, batch)[0], batch).mean()

        exact = flatten(jax.grad(loss)(weights['params']))
        for path, leaf in flatten(grads['params']).items():
            np.testing.assert_allclose(leaf, exact[path], rtol=0, atol=1e-5 * np.abs(exact[path]).max(), err_msg=path)


def operations(program):
    """How many operations a program holds, those of loops and calls in it included."""
    return sum(1 + sum(map(operations, inner_programs(eqn))) for eqn in program.eqns)


@pytest.mark.parametrize(
    ('make', 'few', 'many'),
    [
        (lambda depth: (Layers(depth), helpers.make_batch()), 4, 64),
        (lambda steps: (Recurrent(), rows(steps)), 28, 784),
    ],
)
def test_programs_do_not_grow_with_iterations(make, few, many):
    def size(count):
        model, batch = make(count)
        net = rlra_jax.regions(model, batch)
        update = rlra_jax.update_fn(net, rlra_jax.wire_modules(net, rule=Mirror()), Options(normalise=True))
        weights, state = jax.eval_shape(update.init, KEY)
        return operations(jax.make_jaxpr(update)(weights, state, batch, KEY).jaxpr)

    assert size(many) <= size(few)


def test_mirrors_learn_a_loop():
    """What the synapses of all iterations tend to: in a loop of linear operations, the transposed weights."""
    net = rlra_jax.regions(Layers(residual=False), helpers.make_batch())
    wiring = rlra_jax.wire_reverse(net, rule=Mirror())
    update = rlra_jax.update_fn(net, wiring, Options(normalise=True))
    variables = {'params': helpers.filled(net.variable_shapes()['params'])}
    weights, state = update.init(KEY, variables)

    def passing(weights, key):
        grads, _, _ = update(weights, state, net_batch, key)
        moved = jax.tree.map(lambda E, g: E - 0.5 * g, weights['synapses'], grads['synapses'])
        return {**weights, 'synapses': moved}, None

    net_batch = helpers.make_batch()
    weights, _ = jax.jit(lambda weights: jax.lax.scan(passing, weights, jax.random.split(KEY, 300)))(weights)
    own, W = by_path(weights['synapses'], 3), one_by_one(flatten(variables['params']), 3)
    for path, E in own.items():
        assert helpers.cosine(E, W[path]) > 0.99, path


@pytest.mark.parametrize(
    ('layer', 'parameter'), [(Stream, 'down/kernel'), (Twice, 'first/kernel'), (Leaking, 'inward/kernel')]
)
def test_no_backprop_in_silence_in_a_loop(layer, parameter):
    net = rlra_jax.regions(Streamed(layer), helpers.make_batch())
    with pytest.raises(ValueError, match=f'(?s)must reach exactly one region .*layers/{parameter}: '):
        rlra_jax.check_cut(net)


def test_what_trains_no_loop_says_so():
    net = rlra_jax.regions(Layers(), helpers.make_batch())
    trains = {'backprop', 'direct_feedback_alignment', 'rec_lra'}
    for name in LEARNERS.keys() - trains:
        with pytest.raises(ValueError, match='loop'):
            LEARNERS[name](net)
    edges = rlra_jax.wire_reverse(net).edges
    for wire, message in (
        (rlra_jax.wire_blocks, r"over all of its ways, .*; in that of 'layers/act' edges are missing"),
        (rlra_jax.wire_time, 'wire_reverse'),
        (lambda net: rlra_jax.wire(net, edges[1:]), 'no order reaches'),
        (functools.partial(rlra_jax.wire_reverse, kind=Dense()), r'over edges of the kind Path\(\), .*layers/sum->'),
    ):
        with pytest.raises(ValueError, match=message):
            wire(net)
    told = rlra_jax.summary(net, rlra_jax.wire_reverse(net), mesh=rlra_jax.parallel.make_mesh())
    assert 'stream: this mode cannot train' in told


def test_errors_in_a_loop_of_few_bits_are_computed_in_more():
    """In bfloat16 phi(h) and phi(h - beta d) would be the same number, and no error would be left."""
    h, d = jnp.array([[0.5, -1.0]], jnp.bfloat16), jnp.array([[1.0, -3.0]])
    leave = _answering(jnp.tanh, 1.0, Options(beta=1e-3, normalise=True))
    z, pull = jax.vjp(leave, h, d)
    error, told = pull(jnp.ones_like(z))
    np.testing.assert_array_equal(told, jnp.ones_like(d))
    np.testing.assert_allclose(np.float32(error), (1 - jnp.tanh(np.float32(h)) ** 2) * (d + 1), rtol=0.01)
