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


def from_the_output(net, rule):
    """Every region from the output over dense synapses, and along the forward path back."""
    back = [edge for edge in rlra_jax.wire_reverse(net, rule=rule).edges if edge.source != 'output']
    return rlra_jax.wire(net, [*rlra_jax.wire_direct(net[1:], kind=Dense(), rule=rule).edges, *back])


WIRINGS = {
    'direct': functools.partial(rlra_jax.wire_direct, kind=Dense()),
    'reverse': rlra_jax.wire_reverse,
    'chain': rlra_jax.wire_chain,
    'both': from_the_output,
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


def by_path(wiring, synapses, depth):
    """An error-pathway pytree as {path of a parameter or name of a target: E}, of layers one by one."""
    found = {}
    for name, E in ((name, E) for level in synapses for name, E in level.items()):
        if name.endswith('->'):
            found |= {f'{name.split("/")[0]}: {path}' if 'readout' in path else path: e for path, e in E.items()}
        else:
            target = name.partition('->')[2]
            found[target] = E.reshape(4, depth, -1).swapaxes(0, 1) if E.ndim == 2 and 'layers' in target else E
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
        E = by_path(wirings[0], weights['synapses'], depth)
        own = {
            'params': rlra_jax.paths.refill(like['params'], params),
            'synapses': refilled(wirings[1], like['synapses'], E, depth),
        }
        expected, _, expected_aux = jax.jit(other)(own, own_state, batch, KEY)
        np.testing.assert_allclose(aux.discrepancy, expected_aux.discrepancy, rtol=1e-9)
        came = one_by_one(flatten(grads['params']), depth)
        for path, leaf in flatten(expected['params']).items():
            assert np.abs(leaf).max() > 1e-4, path
            np.testing.assert_allclose(came[path], leaf, rtol=0, atol=1e-9, err_msg=path)
        came = by_path(wirings[0], grads['synapses'], depth)
        wanted = by_path(wirings[1], expected['synapses'], depth)
        assert came.keys() == wanted.keys()
        for path, leaf in wanted.items():
            np.testing.assert_allclose(came[path], leaf, rtol=0, atol=1e-9, err_msg=path)


def refilled(wiring, synapses, E, depth):
    """Synapses like these, with what `by_path` has."""

    def fill(name, own):
        if not name.endswith('->'):
            return E[name.partition('->')[2]].reshape(own.shape)
        return {path: E[f'output->: {path}' if 'readout' in path else path] for path in own}

    return tuple({name: fill(name, own) for name, own in level.items()} for level in synapses)
