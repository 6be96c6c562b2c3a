"""Models that are called on more than an image, or have a loss of their own: cut, and in the limit backprop's."""

import architectures
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.model.gradient import loss_gradient
from rlra_jax.paths import flatten

KEY = jax.random.key(3)
EXACT = [name for name in architectures.OTHERS if 'bfloat16' not in name]


def wide(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


@pytest.mark.parametrize('name', helpers.quick(EXACT, 'graph_net'))
def test_over_the_parameters_errors_are_the_gradient(name):
    with jax.enable_x64(True):
        net, batch, loss = architectures.make(name, 3)
        batch = wide(batch)
        net = rlra_jax.regions(net.model, batch, call=net.call)
        wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.Fixed())
        update = rlra_jax.update_fn(net, wiring, rlra_jax.Options(beta=1e-6, normalise=True), loss=loss)
        weights, state = (helpers.filled(tree, std=0.5) for tree in jax.eval_shape(update.init, KEY))
        variables = {'params': wide(weights['params'])}
        own = {**variables, 'synapses': helpers.own_weights(wiring, net, variables['params'])}
        grads, _, _ = jax.jit(update)(own, state, batch, KEY)
        exact, _, _ = jax.jit(lambda variables: loss_gradient(net, loss, variables, batch, KEY))(variables)
        largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(exact))
        for path, g in flatten(exact).items():
            atol = 1e-4 * max(float(jnp.abs(g).max()), 1e-6 * largest)
            np.testing.assert_allclose(flatten(grads['params'])[path], g, rtol=0, atol=atol, err_msg=path)
