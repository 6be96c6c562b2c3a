import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import rlra_jax
from benchmarks.yardstick import backprop_update
from rlra_jax.parallel.packing import Packing
from rlra_jax.recursion.options import Options


@pytest.mark.parametrize('remat', [pytest.param(False, marks=pytest.mark.full), True])
def test_is_a_step_of_sgd_down_the_gradient_of_the_loss(remat):
    model, x = rlra_jax.nn.ResidualMLP(width=8, depth=6, gap=2), jax.random.normal(jax.random.key(0), (5, 6))
    batch = {'image': x, 'label': jnp.arange(5)}
    variables = dict(model.init(jax.random.key(1), x))
    net = rlra_jax.regions(model, batch)
    packing = Packing(net, rlra_jax.wire_blocks(net, rule=rlra_jax.KolenPollack()), options=Options())
    synapses = jax.tree.map(lambda a: jnp.zeros(a.shape), packing.weights['synapses'])
    params = tuple(held.params for held in packing.pack_held({**variables, 'synapses': synapses}, {}))

    def loss_fn(params):
        logits = model.apply({'params': params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()

    loss, grads = jax.value_and_grad(loss_fn)(variables['params'])
    after = jax.tree.map(lambda p, g: p - 0.5 * g, variables['params'], grads)

    update = jax.jit(backprop_update(packing, 0.5, remat=remat))
    stepped, found = update(params, batch, jax.random.key(2))
    chex.assert_trees_all_close(found, loss, rtol=1e-5)
    found = packing.weights_of(
        stepped, [held.synapses for held in packing.pack_held({**variables, 'synapses': synapses}, {})]
    )['params']
    chex.assert_trees_all_close(found, after, rtol=1e-5, atol=1e-6)
