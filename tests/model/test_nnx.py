import apart
import chex
import flax
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from apart import forward
from flax import nnx

import rlra_jax

X = jax.random.normal(jax.random.key(0), (6, 4, 6, 2))
BATCH = {'image': X, 'label': jnp.arange(6) % 4}


def twins():
    """A linen and an nnx model of the same weights, and the nnx model's variables."""
    linen, module = zoo.CNN(), zoo.NNXCNN(nnx.Rngs(0))
    variables = rlra_jax.nnx.variables(module)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, dict(linen.init(jax.random.key(0), X)))
    return linen, module, variables


@pytest.mark.parametrize('name', helpers.quick(['backprop', 'rec_lra', 'fa_wm', 'target_prop'], 'rec_lra'))
def test_linen_and_nnx_agree(name):
    """The same variables tree, wirings, updates, synapses' updates, batch statistics and loss."""
    linen, module, variables = twins()
    results = []
    for model, kwargs in ((linen, {'train_kwargs': {'train': True}}), (module, {})):
        learner = apart.make_learner(name, model, X, **kwargs)
        feedback = learner.init(jax.random.key(1), variables, BATCH)
        results.append(jax.jit(learner.update)(variables, feedback, BATCH, jax.random.key(2)))
    chex.assert_trees_all_close(*results, atol=1e-5)
    _, _, aux = results[1]
    assert set(aux.variables) == {'batch_stats'}
    assert np.abs(aux.variables['batch_stats']['norm']['mean']).max() > 0


def test_sites_and_cut_agree():
    linen, module, _ = twins()
    assert apart.sites(linen, X).regions == apart.sites(module, X).regions
    assert apart.check_cut(linen, X) == apart.check_cut(module, X)


class Fleeting(nnx.Module):
    """Makes one of its Sites where it calls it, as linen models do."""

    def __init__(self):
        self.low, self.high = nnx.Linear(7, 5, rngs=nnx.Rngs(0)), nnx.Linear(5, 4, rngs=nnx.Rngs(1))
        self.act = rlra_jax.nnx.Site(jnp.tanh)

    def __call__(self, x):
        return self.high(self.act(rlra_jax.nnx.Site(jnp.tanh)(self.low(x))))


class Mixed(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh)(flax.linen.Dense(5)(x))
        return flax.linen.Dense(4)(rlra_jax.nnx.Site(jnp.tanh)(flax.linen.Dense(5)(z)))


class Bridged(nnx.Module):
    """An nnx model that holds a linen one with a Site."""

    def __init__(self, rngs):
        inside = flax.linen.Sequential([flax.linen.Dense(5), rlra_jax.Site(jnp.tanh), flax.linen.Dense(5)])
        self.block = nnx.bridge.ToNNX(inside, rngs=rngs).lazy_init(helpers.make_batch()['image'])
        self.act, self.out = rlra_jax.nnx.Site(jnp.tanh), nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(self.act(self.block(x)))


def test_a_linen_site_inside_an_nnx_model():
    with pytest.raises(ValueError, match=r"the linen Site 'layers_1' lies inside an nnx model"):
        rlra_jax.regions(Bridged(nnx.Rngs(0)), helpers.make_batch())


@pytest.mark.parametrize('make', [Fleeting, Mixed])
def test_a_site_that_would_be_no_end_of_a_region(make):
    with pytest.raises(ValueError, match=r'an nnx\.Site must be an attribute of an nnx model, made in its __init__'):
        rlra_jax.regions(make(), helpers.make_batch())


def test_a_donated_step_leaves_the_model_whole():
    batch = helpers.make_batch()
    net = rlra_jax.regions(OfUnits(), batch)
    step = rlra_jax.make_train_step(rlra_jax.update_fn(net, rlra_jax.wire_chain(net)), optax.sgd(0.1))
    state = step.init(jax.random.key(0))
    jax.jit(step.update, donate_argnums=0)(state, batch, jax.random.key(1))
    again = step.init(jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(again.weights))


class OfUnits(nnx.Module):
    def __init__(self):
        self.low, self.high = nnx.Linear(7, 5, rngs=nnx.Rngs(0)), nnx.Linear(5, 4, rngs=nnx.Rngs(1))
        self.act = rlra_jax.nnx.Site(jnp.tanh)

    def __call__(self, x):
        return self.high(self.act(self.low(x)))


def test_trains_and_comes_back_as_a_module():
    _, module, variables = twins()
    learner = apart.rec_lra(module, X, wiring='chain')
    step = apart.make_train_step(learner, optax.adam(1e-2))
    state = step.init(jax.random.key(0), variables, BATCH)
    update = jax.jit(step.update)
    losses = []
    for i in range(30):
        state, aux = update(state, BATCH, jax.random.key(i))
        losses.append(float(aux.loss))
    assert losses[-1] < 0.5 * losses[0]
    trained = rlra_jax.nnx.merge(module, state.variables)
    chex.assert_trees_all_equal(rlra_jax.nnx.variables(trained), state.variables)
    np.testing.assert_array_equal(trained.conv_1.kernel.get_value(), state.variables['params']['conv_1']['kernel'])
    chex.assert_trees_all_equal(rlra_jax.nnx.variables(module), variables)


class Gain(nnx.Param):
    """A kind of parameter that flax has no name for."""


class Scaled(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.out = nnx.Linear(8, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
        self.gain, self.act = Gain(jnp.ones(6)), rlra_jax.nnx.Site(jnp.tanh)

    def __call__(self, x):
        return self.out(self.act(self.dense(x) * self.gain[...]))


def test_every_kind_of_parameter_learns():
    model, x = Scaled(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (6, 8))
    variables, batch = rlra_jax.nnx.variables(model), {'image': x, 'label': jnp.arange(6) % 4}
    assert list(variables) == ['params']
    assert apart.check_cut(model, x)['gain'] == ('act',)
    wiring = rlra_jax.wire_direct(apart.sites(model, x), rule=rlra_jax.KolenPollack())
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, x)
    grads, *_ = apart.update_fn(model, wiring)(variables, feedback, batch, jax.random.key(2))
    assert jnp.linalg.norm(grads.params['gain']) > 0


class Holding(nnx.Module):
    """Its variables hold a dict, nothing, or an empty dict. Some arrays are no variables."""

    def __init__(self, rngs):
        self.dense, self.out = nnx.Linear(8, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
        self.affine, self.none = nnx.Param({'gain': jnp.ones(6), 'shift': jnp.zeros(6)}), nnx.Param(None)
        self.seen, self.empty = nnx.BatchStat({'passes': jnp.zeros(())}), nnx.Cache({})
        self.act, self.table, self.mean = rlra_jax.nnx.Site(jnp.tanh), jnp.arange(8.0), np.ones(8, np.float32)

    def __call__(self, x):
        x = (x + self.table) / self.mean
        self.seen.set_value({'passes': self.seen['passes'] + 1})
        return self.out(self.act(self.dense(x) * self.affine['gain'] + self.affine['shift']))


def test_variables_that_hold_dicts_or_nothing():
    model, batch = Holding(nnx.Rngs(0)), {'image': np.ones((6, 8), np.float32), 'label': np.arange(6) % 4}
    net = rlra_jax.regions(model, batch)
    step = rlra_jax.make_train_step(rlra_jax.update_fn(net), rlra_jax.optimizers(optax.sgd(0.1)))
    variables = rlra_jax.nnx.variables(model)
    state, _ = jax.jit(step.update)(step.init(jax.random.key(0), variables), batch, jax.random.key(1))
    chex.assert_trees_all_equal_structs(state.variables, variables)
    trained = rlra_jax.nnx.merge(model, state.variables)
    assert trained.seen['passes'] == 1
    assert trained.none.get_value() is None
    for name, start in (('gain', 1), ('shift', 0)):
        assert (trained.affine[name] != start).all()


@pytest.mark.filterwarnings('ignore:Using .Module.sow:DeprecationWarning')
def test_what_a_model_sows_is_none_of_its_variables():
    class Sowing(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.act = nnx.Linear(7, 5, rngs=rngs), rlra_jax.nnx.Site(jnp.tanh)
            self.readout = nnx.Linear(5, 4, rngs=rngs)

        def __call__(self, x):
            z = self.act(self.dense(x))
            self.sow(nnx.Intermediate, 'z', z)
            return self.readout(z)

    module = Sowing(nnx.Rngs(0))
    module(jnp.ones((3, 7)))
    variables = rlra_jax.nnx.variables(module)
    assert set(variables) == {'params'}
    assert not forward(module, variables, jnp.ones((3, 7))).variables


def test_a_site_is_the_plain_activation_and_is_left_unchanged():
    site = rlra_jax.nnx.Site(jnp.sign)
    np.testing.assert_array_equal(site(X), jnp.sign(X))
    _, module, variables = twins()
    before = nnx.graphdef(module)
    forward(module, variables, X)
    assert nnx.graphdef(module) == before


class Deep(nnx.Module):
    def __init__(self, rngs, depth=2, remat=False):
        self.blocks = nnx.List([DeepBlock(rngs) for _ in range(depth)])
        self.readout = nnx.Linear(7, 4, rngs=rngs)
        self.remat = remat

    def __call__(self, x):
        for block in self.blocks:
            x = nnx.remat(DeepBlock.__call__)(block, x) if self.remat else block(x)
        return self.readout(x)


class DeepBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(7, 7, rngs=rngs)
        self.act = rlra_jax.nnx.Site(jnp.tanh)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.act(self.dense(x)))


def test_lists_of_modules_keep_forward_order():
    regions = apart.sites(Deep(nnx.Rngs(0), depth=11), helpers.make_batch()['image'])
    assert [region.name for region in regions] == [*(f'blocks/{i}/act' for i in range(11)), 'output']


def test_remat_changes_nothing():
    batch = helpers.make_batch()
    results = []
    for remat in (False, True):
        model = Deep(nnx.Rngs(0), remat=remat)
        wiring = rlra_jax.wire_modules(apart.sites(model, batch['image']), rule=rlra_jax.Mirror())
        variables = rlra_jax.nnx.variables(model)
        feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'])
        update = jax.jit(apart.update_fn(model, wiring))
        results.append(update(variables, feedback, batch, jax.random.key(2)))
    chex.assert_trees_all_close(*results, atol=1e-6)


def test_dropout_follows_the_key_and_differs_between_layers():
    model, x = Deep(nnx.Rngs(0)), helpers.make_batch()['image']
    variables = rlra_jax.nnx.variables(model)
    assert set(variables) == {'params'}
    passes = [forward(model, variables, x, rngs=jax.random.key(k)).h['output'] for k in (1, 1, 2)]
    chex.assert_trees_all_equal(*passes[:2])
    assert np.abs(passes[0] - passes[2]).max() > 0

    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            return jnp.stack([drop(x) for drop in self.drops])

    one, other = rlra_jax.nnx.merge(Twice(nnx.Rngs(0)), {}, jax.random.key(0))(jnp.ones((50,)))
    assert np.any(one != other)


class Called(nnx.Module):
    """Is handed its random streams when it is called."""

    def __init__(self, rngs):
        self.dense = nnx.List([nnx.Linear(7, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)])
        self.act, self.drop = rlra_jax.nnx.Site(jnp.tanh), nnx.Dropout(0.5)

    def __call__(self, x, rngs):
        return self.dense[1](self.drop(self.act(self.dense[0](x)), rngs=rngs))


def test_streams_of_a_call_follow_the_key():
    model, batch = Called(nnx.Rngs(0)), helpers.make_batch()
    net = rlra_jax.regions(model, batch, call=lambda module, batch, key: module(batch['image'], nnx.Rngs(dropout=key)))
    update = jax.jit(rlra_jax.update_fn(net))
    weights, state = rlra_jax.update_fn(net).init(jax.random.key(1))
    one, same, other = (update(weights, state, batch, jax.random.key(k))[2].outputs for k in (1, 1, 2))
    chex.assert_trees_all_equal(one, same)
    assert np.abs(one - other).max() > 0


class Shared(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.List([nnx.Linear(7, 7, rngs=rngs), nnx.Linear(7, 4, rngs=rngs)])
        self.act = rlra_jax.nnx.Site(jnp.tanh)

    def __call__(self, x):
        return self.dense[1](self.act(self.dense[0](self.act(x))))


def test_a_site_called_twice():
    regions = apart.sites(Shared(nnx.Rngs(0)), helpers.make_batch()['image'])
    assert [region.name for region in regions] == ['act#0', 'act#1', 'output']


def test_layers_scanned_by_nnx():
    class Scanned(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.vmap(DeepBlock)(rngs.split(3))
            self.readout = nnx.Linear(7, 4, rngs=rngs)

        def __call__(self, x):
            layers = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return self.readout(layers(x, self.blocks))

    regions = apart.sites(Scanned(nnx.Rngs(0)), helpers.make_batch()['image'])
    assert [(region.name, region.shape) for region in regions] == [('blocks/act', (12, 3, 7)), ('output', (12, 4))]


def test_variables_of_another_model():
    _, module, variables = twins()
    flat = flax.traverse_util.flatten_dict(variables, sep='/')
    kernel = flat.pop('params/conv_1/kernel')
    with pytest.raises(ValueError, match="the model has params 'conv_1/kernel', but the variables do not"):
        rlra_jax.nnx.merge(module, flax.traverse_util.unflatten_dict(flat, sep='/'))
    flat |= {'params/conv_1/kernel': kernel, 'params/conv_9/kernel': kernel}
    with pytest.raises(ValueError, match=r"the model has no variables \['params/conv_9/kernel'\]"):
        rlra_jax.nnx.merge(module, flax.traverse_util.unflatten_dict(flat, sep='/'))


def test_what_is_no_model():
    with pytest.raises(ValueError, match=r'flax\.linen\.Module or flax\.nnx\.Module; got <function'):
        apart.sites(lambda x: x, X)
