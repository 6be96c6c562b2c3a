"""Readout skips: as an option of models, and as a transform of any."""

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import of_nnx
from flax import nnx

import rlra_jax
from rlra_jax.model.call import call_on
from rlra_jax.model.capture import forward
from rlra_jax.nn import MODELS, with_readouts
from rlra_jax.nn.cells import cell_means
from rlra_jax.paths import flatten

KEY = jax.random.key(0)
IMAGES = {'image': jax.random.normal(KEY, (3, 8, 8, 2)), 'label': jnp.arange(3)}
TEXT = {'tokens': jnp.arange(12).reshape(2, 6) % 4, 'label': jnp.ones((2, 6), jnp.int32)}
THIN = {
    'cnn': {'widths': (3, 4, 5), 'strides': (1, 2, 1), 'norm': 'group'},
    'presnet18': {'width': 2, 'blocks': (1, 1), 'norm': 'group'},
    'transformer': {'width': 4, 'depth': 2, 'heads': 1, 'hidden': 4, 'context': 6},
    'vit': {'width': 4, 'depth': 2, 'heads': 1, 'hidden': 4},
}
READ = {
    'cnn': ['hidden_1', 'hidden_2'],
    'presnet18': ['stem', 'stage_1/block_1/act_2'],
    'transformer': ['block_1/mlp_sum'],
    'vit': ['block_1/mlp_sum'],
}


def net_of(name, **options):
    batch = TEXT if name == 'transformer' else IMAGES
    call = call_on('tokens') if name == 'transformer' else None
    return rlra_jax.regions(MODELS[name](classes=4, **THIN[name], **options), batch, call=call), batch


@pytest.mark.parametrize('name', THIN)
def test_the_option_and_the_transform_read_the_same_and_add_their_weights_alone(name):
    cells = {} if name == 'transformer' else {'cells': 2}
    plain, batch = net_of(name)
    option, _ = net_of(name, readout='all', **cells)
    transform = with_readouts(plain, READ[name], **cells)
    assert option[-1].inputs == transform[-1].inputs == (*READ[name], *plain[-1].inputs)
    assert [region.name for region in transform] == [region.name for region in plain]
    variables, *read = (helpers.filled(net.variable_shapes()) for net in (plain, option, transform))
    for own in read:
        skips = own['params'].pop('skips')
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, variables)
        assert len(skips) == len(READ[name])
        own.update(variables, params={**variables['params'], 'skips': skips})
    still = {**variables, 'params': {**variables['params'], 'skips': jax.tree.map(jnp.zeros_like, skips)}}

    @jax.jit
    def run():
        return (
            plain.apply(variables, batch, KEY)[0],
            transform.apply(still, batch, KEY)[0],
            *(net.apply(own, batch, KEY)[0] for net, own in zip((option, transform), read, strict=True)),
        )

    expected, here, came, again = run()
    np.testing.assert_allclose(here, expected, atol=1e-6)
    np.testing.assert_allclose(came, again, atol=1e-6)
    assert np.abs(came - expected).max() > 0.01


def test_skips_are_a_sum_over_means_of_cells():
    z = np.asarray(jax.random.normal(KEY, (2, 5, 4, 3)))
    means = np.asarray(cell_means(jnp.asarray(z), 2))
    for i, rows in enumerate((slice(0, 3), slice(3, 5))):
        for j, columns in enumerate((slice(0, 2), slice(2, 4))):
            np.testing.assert_allclose(means[:, i, j], z[:, rows, columns].mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(cell_means(jnp.asarray(z), 9), z, atol=1e-6)
    net, batch = net_of('cnn', readout='all', cells=2)
    assert not any(map(np.any, jax.tree.leaves(jax.jit(net.init)(KEY)['params']['skips'])))
    variables = helpers.filled(net.variable_shapes())
    skips = variables['params']['skips']
    without = {'params': {**variables['params'], 'skips': jax.tree.map(jnp.zeros_like, skips)}}
    (came, expected), seen = jax.jit(
        lambda: ([net.apply(v, batch)[0] for v in (variables, without)], forward(net, variables, batch).h)
    )()
    for name in READ['cnn']:
        cells = cell_means(jnp.tanh(seen[name]), 2).reshape(3, -1)
        expected = expected + cells @ skips[name]['kernel']
    np.testing.assert_allclose(came, expected, atol=1e-5)


def test_nnx_models_are_read_too():
    batch = {'image': jax.random.normal(KEY, (3, 8, 8, 2)), 'label': jnp.arange(3)}
    plain = rlra_jax.regions(of_nnx.NNXBlocks(nnx.Rngs(0)), batch)
    net = with_readouts(plain, ['cuts/0', 'act'], cells=2)
    assert net[-1].inputs == ('model/cuts/0', 'model/act', 'model/cuts/2')
    variables = net.init(KEY)
    skips = {name: leaf.shape for name, leaf in flatten(variables['params']['skips']).items()}
    assert skips == {'cuts.0/kernel': (12, 4), 'act/kernel': (20, 4)}
    assert flatten(variables['params']['model']).keys() == flatten(plain.init(KEY)['params']).keys()
    np.testing.assert_array_equal(net.apply(variables, batch)[0], plain.apply(plain.init(KEY), batch)[0])
    filled = {'params': {**variables['params'], 'skips': helpers.filled(variables['params']['skips'])}}
    gradient = jax.grad(lambda v: net.apply(v, batch)[0].sum())(filled)['params']['skips']
    assert all(map(np.any, jax.tree.leaves(gradient)))


class NNXCells(nnx.Module):
    def __init__(self):
        self.cells, self.low = rlra_jax.nnx.Site(jnp.tanh), nnx.Linear(3, 5, rngs=nnx.Rngs(0))
        self.act, self.mid = rlra_jax.nnx.Site(jnp.tanh), nnx.Linear(5, 5, rngs=nnx.Rngs(1))
        self.high = nnx.Linear(5, 4, rngs=nnx.Rngs(2))

    def __call__(self, x):
        return self.high(self.act(self.mid(self.cells(self.low(x)))))


def test_an_nnx_region_may_be_called_as_what_counts_cells():
    batch = {'image': jnp.ones((2, 3)), 'label': jnp.zeros(2, jnp.int32)}
    net = with_readouts(rlra_jax.regions(NNXCells(), batch), ['cells'])
    assert net[-1].inputs == ('model/cells', 'model/act')


class Noting(nn.Module):
    """Whose outputs tell whether it trains."""

    @nn.compact
    def __call__(self, x, train=False):
        z = rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(3)(x.reshape(len(x), -1)))
        return nn.Dense(2)(z) + float(train)


class NNXNoting(nnx.Module):
    def __init__(self):
        self.linear, self.act = nnx.Linear(128, 3, rngs=nnx.Rngs(0)), rlra_jax.nnx.Site(jnp.tanh)
        self.read = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x, train=False):
        return self.read(self.act(self.linear(x.reshape(len(x), -1)))) + float(train)


@pytest.mark.parametrize('model', [Noting(), NNXNoting()])
def test_a_model_that_reads_another_is_called_as_that(model):
    """Where it is bound anew, too: in training."""
    plain = rlra_jax.regions(model, IMAGES)
    again = rlra_jax.regions(with_readouts(plain, ['act']).model, IMAGES)
    zeros = jax.tree.map(jnp.zeros_like, again.init(KEY))
    np.testing.assert_array_equal(again.apply(zeros, IMAGES)[0], 1.0)


class Unmade(nn.Module):
    """An activation in a method that makes no modules."""

    def setup(self):
        self.first, self.readout = nn.Dense(3), nn.Dense(2)

    def __call__(self, x):
        return self.readout(rlra_jax.Site.of(jnp.tanh)(self.first(x)))


def test_what_cannot_be_read_is_told():
    plain, _ = net_of('cnn')
    with pytest.raises(ValueError, match=r"hidden regions that are called once, \['hidden_1', .*; got \['output'\]"):
        with_readouts(plain, ['output'])
    with pytest.raises(ValueError, match='cells'):
        with_readouts(plain, ['hidden_1'], cells=0)
    with pytest.raises(ValueError, match="readout 'some'"):
        net_of('cnn', readout='some')
    with pytest.raises(ValueError, match=r"those of \['Site_0'\] lie inside of .* or are no Sites of their own"):
        with_readouts(rlra_jax.regions(Unmade(), helpers.make_batch()), ['Site_0'])
    with pytest.raises(ValueError, match='net must be one without readout skips'):
        with_readouts(with_readouts(plain, ['hidden_1']), ['hidden_2'])


class Pair(nn.Module):
    """Returns two arrays, or one by another method."""

    @nn.compact
    def __call__(self, x):
        z = Layer(name='layer')(x)
        return nn.Dense(2)(z), z

    def encoded(self, x):
        return self(x)[0]


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda model, batch: model(batch['image'])[0], r"must be one array \[B, ..., n\]; got 'tuple'"),
        (lambda model, batch: model.encoded(batch['image']), 'called by its __call__ alone: .*encoded'),
    ],
)
def test_calls_that_readouts_cannot_stand_in_for(call, message):
    net = rlra_jax.regions(Pair(), helpers.make_batch(), call=call)
    with pytest.raises(ValueError, match=message):
        with_readouts(net, ['layer/act'])


class Wrapped(nn.Module):
    """Two layers in a transform."""

    wrap: object

    @nn.compact
    def __call__(self, x):
        layer = self.wrap(Layer)
        return nn.Dense(2)(layer(name='two')(layer(name='one')(x)))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(3)(x))


@pytest.mark.parametrize('wrap', [nn.remat, nn.jit])
def test_sites_in_transforms_cannot_be_read(wrap):
    net = rlra_jax.regions(Wrapped(wrap), helpers.make_batch())
    with pytest.raises(ValueError, match=r"those of \['one/act'\] lie inside of nn.remat, nn.jit"):
        with_readouts(net, ['one/act'])


def test_skips_have_the_parameters_type():
    x = jnp.ones((2, 8, 8, 1), jnp.bfloat16)
    model = rlra_jax.nn.CNN(widths=(3, 4), strides=(1, 2), readout='all', param_dtype=jnp.bfloat16)
    types = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(model.init, KEY, x)['params'])}
    assert types == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize('library', ['linen', 'nnx'])
def test_cells_are_averaged_in_the_parameters_type(library):
    x = jax.random.uniform(KEY, (2, 6, 6, 3)).astype(jnp.bfloat16)
    kernel = jax.random.normal(KEY, (12, 4))
    if library == 'linen':
        skips = rlra_jax.nn.readouts.Skips(cells=2)
        came = skips.apply({'params': {'low': {'kernel': kernel}}}, jnp.zeros((2, 4)), {'low': x})
    else:
        skips = rlra_jax.nn.readouts._NnxSkips({'low': x.shape}, (2, 4), cells=2, param_dtype=jnp.float32)
        skips.low.kernel[...] = kernel
        came = skips(jnp.zeros((2, 4)), {'low': x})
    seen = cell_means(x.astype(jnp.float32), 2).reshape(2, -1)
    np.testing.assert_allclose(came, seen @ kernel, rtol=1e-6, atol=1e-6)


class Scalar(nn.Module):
    """A region of one number for each example, `[B]`."""

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='one')(nn.Dense(1)(x)[:, 0])
        return nn.Dense(2)(rlra_jax.Site(jnp.tanh, name='two')(nn.Dense(3)(z[:, None])))


def test_a_region_of_one_number_is_read_as_such():
    net = with_readouts(rlra_jax.regions(Scalar(), helpers.make_batch()), ['one'])
    assert net.variable_shapes()['params']['skips']['one']['kernel'].shape == (1, 2)


class Queries(nn.Module):
    """A Site of several heads at each position, and a submodule that is called as flax calls none of its own."""

    def setup(self):
        self.model, self.readout = nn.Dense(6), nn.Dense(2)
        self.act = rlra_jax.Site(jnp.tanh)

    def __call__(self, x):
        return self.readout(self.act(self.model(x).reshape(*x.shape[:2], 2, 3)).reshape(*x.shape[:2], 6))


def test_several_heads_are_read_position_by_position():
    batch = {'image': jax.random.normal(KEY, (2, 5, 4)), 'label': jnp.zeros((2, 5), jnp.int32)}
    net = with_readouts(rlra_jax.regions(Queries(), batch), (name for name in ['act']))
    assert net[-1].inputs == ('act',)
    variables = helpers.filled(net.init(KEY))
    assert variables['params']['skips']['act']['kernel'].shape == (6, 2)
    last = {**batch, 'image': batch['image'].at[:, -1].add(1.0)}
    changed = np.any(net.apply(variables, batch)[0] != net.apply(variables, last)[0], axis=(0, 2))
    assert changed.tolist() == [False, False, False, False, True]


def test_cells_of_no_readout():
    with pytest.raises(ValueError, match="cells must be 1 but with readout='all'; got 2"):
        net_of('cnn', cells=2)
