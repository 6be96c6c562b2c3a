"""Layers and steps in loops that JAX traces once learn as the same ones, one by one."""

import functools
import re

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from loop_models import Block, Deep, Layers, NNXLayers, Recurrent, rows

import rlra_jax
from rlra_jax import Dense, Edge, Fixed, Hebbian, KolenPollack, Mirror, Options, Site
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.paths import flatten

KEY = jax.random.key(7)


def double(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def both(net, rule):
    """Every region of a loop from the output over a dense synapse, and all along the forward path back."""
    back = [edge for edge in rlra_jax.wire_reverse(net, rule=rule).edges if edge.source != 'output']
    direct = rlra_jax.wire_direct(net, kind=Dense(), rule=rule).edges
    return rlra_jax.wire(net, [*(edge for edge in direct if edge.target != 'stem_act'), *back])


WIRINGS = {
    'direct': functools.partial(rlra_jax.wire_direct, kind=Dense()),
    'reverse': rlra_jax.wire_reverse,
    'chain': rlra_jax.wire_chain,
    'both': both,
}


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


@pytest.mark.parametrize('rule', [KolenPollack(), Hebbian()])
@pytest.mark.parametrize('name', WIRINGS)
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


def over_the_parameters(net, wiring, weights):
    """Weights whose synapses are the parameters that they stand for."""
    return {**weights, 'synapses': helpers.own_weights(wiring, net, weights['params'])}


MODELS = {
    'in remat': (lambda: Layers(wrap=nn.remat), helpers.make_batch),
    'in jit': (lambda: Layers(wrap=nn.jit), helpers.make_batch),
    'steps': (Recurrent, rows),
    'steps, read at each': (lambda: Recurrent(every_step=True), functools.partial(rows, every_step=True)),
    'steps within layers': (Deep, rows),
    'nnx': (lambda: NNXLayers(nnx.Rngs(0)), helpers.make_batch),
}


@pytest.mark.parametrize('name', MODELS)
def test_over_the_parameters_errors_are_the_gradient(name):
    make, batch = MODELS[name]
    with jax.enable_x64(True):
        batch = double(batch())
        net = rlra_jax.regions(make(), batch)
        wiring = rlra_jax.wire_reverse(net, rule=Fixed())
        update = rlra_jax.update_fn(net, wiring, Options(beta=1e-6, normalise=True))
        weights, state = update.init(KEY, double(net.init(KEY)))
        own = over_the_parameters(net, wiring, weights)
        grads, _, _ = jax.jit(update)(own, state, batch, KEY)

        def loss(params):
            return softmax_cross_entropy(net.apply({'params': params}, batch)[0], batch).mean()

        exact = flatten(jax.grad(loss)(weights['params']))
        for path, leaf in flatten(grads['params']).items():
            np.testing.assert_allclose(leaf, exact[path], rtol=0, atol=1e-5 * np.abs(exact[path]).max(), err_msg=path)


@pytest.mark.parametrize(
    ('make', 'few', 'many'),
    [
        (lambda depth: (Layers(depth), helpers.make_batch()), 4, 64),
        (lambda steps: (Recurrent(), rows(steps)), 28, 784),
    ],
)
def test_programs_do_not_grow_with_iterations(make, few, many):
    def program(count):
        model, batch = make(count)
        net = rlra_jax.regions(model, batch)
        update = rlra_jax.update_fn(net, rlra_jax.wire_reverse(net, rule=Mirror()), Options(normalise=True))
        weights, state = jax.eval_shape(update.init, KEY)
        return len(str(jax.make_jaxpr(update)(weights, state, batch, KEY)).splitlines())

    assert program(few) == program(many)
