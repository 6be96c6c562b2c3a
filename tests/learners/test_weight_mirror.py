"""Weight mirrors learn the weights that errors pass."""

import apart
import flax
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.paths import flatten


class Repeated(nn.Module):
    """One kernel in eight products, cast anew for each, or joined with another."""

    cast: bool

    @nn.compact
    def __call__(self, x):
        z = jnp.tanh(nn.Dense(6, name='first')(x))
        if self.cast:
            shared = nn.Dense(6, use_bias=False, dtype=jnp.bfloat16, name='shared')
            for _ in range(8):
                z = jnp.sin(shared(z)).astype(jnp.float32)
        else:
            one, other = (self.param(name, nn.initializers.lecun_normal(), (6, 6)) for name in ('one', 'other'))
            for _ in range(8):
                z = jnp.sin((z @ jnp.concatenate([one, other], axis=1)).reshape(-1, 2, 6).sum(axis=1))
        return nn.Dense(4, name='readout')(z)


@pytest.mark.parametrize('cast', [True, pytest.param(False, marks=pytest.mark.full)])
def test_mirrors_of_a_kernel_with_many_products_take_their_mean(cast):
    net = rlra_jax.regions(Repeated(cast), batch := helpers.make_batch())
    learner = rlra_jax.learners.weight_mirror(net)
    weights, state = learner.init(jax.random.key(0))
    update = jax.jit(lambda key: learner.update(weights, state, batch, key)[0]['synapses'])
    keys = jax.random.split(jax.random.key(1), 200)
    mean = jax.tree.map(lambda grads: grads.mean(axis=0), jax.lax.map(update, keys))
    W, E = flatten(weights['params']), weights['synapses']
    path = 'shared/kernel' if cast else 'other'
    estimate = E[path] - mean[path]
    assert helpers.cosine(estimate, W[path]) > 0.9
    np.testing.assert_allclose((estimate * W[path]).sum() / jnp.square(W[path]).sum(), 1, atol=0.1)


def test_taps_that_never_touch_the_map_are_estimated_as_zero():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = jnp.tanh(nn.Conv(3, (3, 3), name='first')(x))
            return nn.Dense(4)(jnp.tanh(nn.Conv(3, (3, 3), name='second')(z)).mean(axis=(1, 2)))

    batch = {**helpers.make_batch(), 'image': jax.random.normal(jax.random.key(0), (12, 1, 1, 2))}
    variables = dict(Net().init(jax.random.key(0), batch['image']))
    learner = apart.make_learner('weight_mirror', Net(), batch['image'])
    feedback = learner.init(jax.random.key(1), variables, batch)
    dE = helpers.run_learner(learner, variables, batch, feedback)[0].synapses['second/kernel']
    np.testing.assert_array_equal(dE[0], feedback.synapses['second/kernel'][0])
    assert np.all(np.isfinite(dE))


@pytest.mark.parametrize('make', [helpers.make_mlp, helpers.make_conv])
def test_weight_mirrors_learn_w(make):
    model, variables, batch = make()
    learner = apart.make_learner('weight_mirror', model, batch['image'])
    feedback = learner.init(jax.random.key(2), variables, batch)

    def step(i, E):
        grads, _, _ = learner.update(variables, feedback._replace(synapses=E), batch, jax.random.key(i))
        return jax.tree.map(lambda E, g: E - g / (i + 2), E, grads.synapses)  # a running mean of the estimates

    E = jax.jit(lambda E: jax.lax.fori_loop(0, 1000, step, E))(feedback.synapses)
    W = flax.traverse_util.flatten_dict(variables['params'], sep='/')
    for path in E:
        assert helpers.cosine(feedback.synapses[path], W[path]) < 0.6, path
        assert helpers.cosine(E[path], W[path]) > 0.98, path
        np.testing.assert_allclose(jnp.linalg.norm(E[path]) / jnp.linalg.norm(W[path]), 1, atol=0.1)


def test_mirror_phases_come_every_so_many_steps():
    model, variables, batch = helpers.make_mlp(depth=2)
    learner = apart.make_learner('weight_mirror', model, batch['image'], mirror_every=3)
    feedback, moved = learner.init(jax.random.key(2), variables, batch), []
    for _ in range(5):
        grads, feedback, _ = helpers.run_learner(learner, variables, batch, feedback)
        moved.append(any(np.any(g) for g in jax.tree.leaves(grads.synapses)))
    assert moved == [True, False, False, True, False]
