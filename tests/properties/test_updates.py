"""Whole updates of networks of whatever graph."""

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from strategies import graphs, seeds

import rlra_jax


class Net(nn.Module):
    """Regions of 3 units that hear the input, if nothing else, and each other as a graph says."""

    graph: dict

    @nn.compact
    def __call__(self, x):
        z = {}
        for name, heard in self.graph.items():
            width = 4 if name == 'output' else 3
            parts = [nn.Dense(width, name=f'{source}_to_{name}')(z[source]) for source in heard]
            h = sum(parts) if parts else nn.Dense(width, name=f'x_to_{name}')(x)
            if name == 'output':
                return h
            z[name] = rlra_jax.Site(jnp.tanh, name=name)(h)


@settings(max_examples=4)
@given(graphs(most=4), seeds)
def test_over_its_own_weights_the_forward_graph_backwards_is_the_gradient(graph, seed):
    """At a small beta, with errors that are normalised, in float64: every path of every graph counts once."""
    with jax.enable_x64(True):
        batch = helpers.make_batch(size=3, features=2, seed=seed % 1000, dtype=jnp.float64)
        model = Net({name: tuple(heard) for name, heard in graph.items()})
        shapes = jax.eval_shape(model.init, jax.random.key(0), batch['image'])
        variables = {
            'params': jax.tree.map(lambda x: x.astype(jnp.float64), helpers.filled(shapes['params'], seed=seed))
        }
        regions = apart.sites(model, batch['image'])
        assert {region.name: sorted(region.inputs) for region in regions} == {n: sorted(v) for n, v in graph.items()}
        wiring = rlra_jax.wire_reverse(regions, rule=rlra_jax.KolenPollack())
        feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'])
        feedback = feedback._replace(synapses=helpers.own_weights(wiring, regions, variables['params']))
        update = apart.update_fn(model, wiring, beta=1e-6, normalise=True)
        grads, _, _ = jax.jit(update)(variables, feedback, batch, jax.random.key(2))
        expected = helpers.gradient(model, variables, batch)
    for came, exact in zip(jax.tree.leaves(grads.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(came, exact, atol=1e-5)
