import apart
import chex
import flax
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from apart import cut_vjp, forward

import rlra_jax
from rlra_jax import Site


def test_regions_come_in_forward_order_however_many():
    model, _, batch = helpers.make_mlp(depth=11)
    names = [region.name for region in apart.sites(model, batch['image'])]
    assert names == [*(f'hidden_{i}' for i in range(1, 12)), 'output']


@pytest.mark.parametrize('gap', [None, 2])
def test_captures_what_the_model_computes(gap):
    model, variables, batch = helpers.make_mlp(depth=5, gap=gap)
    seen = forward(model, variables, batch['image'])
    h, _ = oracle.forward(*helpers.layers(variables['params']), np.asarray(batch['image']), 'tanh', gap)
    for layer, name in enumerate(seen.h, start=1):
        np.testing.assert_allclose(seen.h[name], h[layer], atol=1e-5)
    chex.assert_trees_all_close(seen.h['output'], model.apply(variables, batch['image']), rtol=1e-6)


def test_jacobian_is_block_diagonal():
    model, variables, batch = helpers.make_mlp(depth=3)
    seen, pull = cut_vjp(model, variables, batch['image'])
    for region, module in zip(seen.h, ('dense_1', 'dense_2', 'dense_3', 'readout'), strict=True):
        update = pull({name: jnp.full_like(h, float(name == region)) for name, h in seen.h.items()})
        touched = {name for name, leaves in update.items() if any(np.any(leaf) for leaf in jax.tree.leaves(leaves))}
        assert touched == {module}


def test_model_with_an_activation_field_needs_no_edit():
    class Net(nn.Module):
        act: object = nn.relu

        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = self.act(nn.Dense(5)(x))
            return nn.Dense(4)(x)

    batch = helpers.make_batch()
    marked, plain = Net(act=rlra_jax.Site.of(nn.relu)), Net()
    assert [r.name for r in apart.sites(marked, batch['image'])] == ['Site_0', 'Site_1', 'output']
    variables = plain.init(jax.random.key(0), batch['image'])
    chex.assert_trees_all_equal(marked.apply(variables, batch['image']), plain.apply(variables, batch['image']))


def test_works_under_remat_and_jit():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(7, name='dense')(x))

    class Net(nn.Module):
        block: type

        @nn.compact
        def __call__(self, x):
            for i in range(2):
                x = self.block(name=f'block_{i}')(x)
            return nn.Dense(4, name='readout')(x)

    batch = helpers.make_batch()
    grads = []
    for block in (Block, nn.remat(Block)):
        model = Net(block)
        variables = dict(model.init(jax.random.key(0), batch['image']))
        wiring = helpers.make_wiring(model, batch['image'], 'chain', rule='mirror')
        feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'])
        grads.append(jax.jit(apart.update_fn(model, wiring))(variables, feedback, batch, jax.random.key(2))[0])
    chex.assert_trees_all_close(*grads, atol=1e-6)


def test_dropout_is_the_same_in_clean_and_noisy_passes():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh, name='hidden')(nn.Dense(50, name='dense')(x))
            return nn.Dense(4, name='readout')(nn.Dropout(0.5, deterministic=False)(z))

    model, batch = Net(), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    one, same, other = (
        forward(model, variables, batch['image'], rngs=jax.random.key(k)).h['output'] for k in (1, 1, 2)
    )
    chex.assert_trees_all_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_h_may_be_given_by_its_name():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(features=4)(inputs=rlra_jax.Site(jnp.tanh)(h=nn.Dense(features=5)(inputs=x)))

    batch = helpers.make_batch()
    assert [region.shape for region in apart.sites(Net(), batch['image'])] == [(12, 5), (12, 4)]
    variables = dict(Net().init(jax.random.key(0), batch['image']))
    learner = apart.make_learner('feedback_alignment', Net(), batch['image'])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(helpers.run_learner(learner, variables, batch)[0].params))


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = Site(jnp.tanh)(nn.Dense(5)(x))
        self.sow('losses', 'size', (z**2).mean())
        return nn.Dense(4)(z)


def test_a_collection_that_would_grow_at_every_step():
    x = jnp.ones((3, 4))
    variables = dict(Sowing().init(jax.random.key(0), x))
    with pytest.raises(ValueError, match=r"collections \['losses'\] .* leave them out of `variables`"):
        forward(Sowing(), variables, x)
    assert forward(Sowing(), {'params': variables['params']}, x).variables == {}


class Summing(nn.Module):
    """Sows a sum, which looks like any other variable, in a loop and at the top."""

    @nn.compact
    def __call__(self, x):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, z, _):
                self.sow('losses', 'size', (z**2).mean(), reduce_fn=jnp.add, init_fn=lambda: 0.0)
                return nn.Dense(x.shape[-1])(z), None

        loop = nn.scan(Layer, variable_axes={'params': 0, 'losses': 0}, split_rngs={'params': True}, length=2)
        z, _ = loop(name='loop')(x, None)
        z = Site(jnp.tanh)(z)
        self.sow('losses', 'size', {'mean': (z**2).mean()}, reduce_fn=lambda old, new: new, init_fn=dict)
        return nn.Dense(4)(z)


@pytest.mark.parametrize('model', [Sowing(), Summing()])
def test_a_model_that_sows_losses_is_trained_without_them(model):
    batch = helpers.make_batch()
    net = rlra_jax.regions(model, batch)
    assert set(net.init(jax.random.key(0))) == {'params'}
    update = rlra_jax.update_fn(net, rlra_jax.wire_chain(net))
    weights, state = update.init(jax.random.key(0))
    grads, after, _ = update(weights, state, batch, jax.random.key(1))
    assert after.collections == {}
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads['params']))


def test_a_variable_that_is_a_tuple_stays():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            low, high = self.variable('limits', 'both', lambda: (jnp.float32(-1.0), jnp.float32(1.0))).value
            return nn.Dense(4)(Site(jnp.tanh)(nn.Dense(5)(jnp.clip(x, low, high))))

    net = rlra_jax.regions(Pair(), helpers.make_batch())
    variables = net.init(jax.random.key(0))
    assert set(variables) == {'params', 'limits'}
    with pytest.raises(ValueError, match=r'limits/both/0 is missing; limits/both/1 is missing'):
        rlra_jax.update_fn(net, rlra_jax.wire_chain(net)).init(jax.random.key(0), {'params': variables['params']})


@pytest.mark.parametrize('wrap', [dict, flax.core.freeze])
def test_statistics_in_either_kind_of_dictionary(wrap):
    model, x = (
        nn.Sequential([nn.Dense(5), nn.BatchNorm(use_running_average=False), Site(jnp.tanh), nn.Dense(4)]),
        jnp.ones((3, 4)),
    )
    variables = wrap(model.init(jax.random.key(0), x))
    assert set(forward(model, variables, x).variables) == {'batch_stats'}


def test_variables_without_params():
    with pytest.raises(ValueError, match=r"must be what the model's init returned, .*; got \['kernel'\]"):
        forward(Sowing(), {'kernel': jnp.ones(3)}, jnp.ones((3, 4)))


class FromSetup(nn.Module):
    """Another author's: layers made in setup, an activation handed over."""

    act: object

    def setup(self):
        self.lower, self.upper, self.readout = nn.Dense(5), nn.Dense(5), nn.Dense(4)

    def __call__(self, x):
        return self.readout(self.act(self.upper(self.act(self.lower(x)))))


class FromSetupTwice(nn.Module):
    act: object
    remat: bool = False

    def setup(self):
        kind = nn.remat(FromSetup) if self.remat else FromSetup
        self.first, self.second = kind(self.act), kind(self.act)

    def __call__(self, x):
        return self.second(self.act(self.first(x)))


@pytest.mark.parametrize('remat', [False, True])
def test_an_activation_field_of_modules_with_setup(remat):
    batch = helpers.make_batch()
    model, plain = FromSetupTwice(Site.of(nn.relu), remat), FromSetupTwice(nn.relu, remat)
    hidden = ['first/Site_0', 'first/Site_1', 'Site_0', 'second/Site_0', 'second/Site_1']
    assert [region.name for region in apart.sites(model, batch['image'])] == [*hidden, 'output']
    variables = dict(model.init(jax.random.key(0), batch['image']))
    chex.assert_trees_all_equal(model.apply(variables, batch['image']), plain.apply(variables, batch['image']))
    reached = apart.check_cut(model, batch['image'], variables=variables)
    assert reached['first/upper/kernel'] == ('first/Site_1',)
    assert reached['second/lower/kernel'] == ('second/Site_0',)
    learner = apart.rec_lra(model, batch['image'])
    grads, _, _ = helpers.run_learner(learner, variables, batch)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads.params))
