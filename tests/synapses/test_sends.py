"""Paths that send a share of the channels, those of the largest errors."""

import dataclasses

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.experiment.names import named
from rlra_jax.model.programs import split
from rlra_jax.nn.convolve import convolve
from rlra_jax.paths import flatten
from rlra_jax.synapses.path import find_ways

KEY = jax.random.key(0)


OWN = {
    'linen': {},
    'scaled': {},
    'strided': {'strides': 2},
    'patches': {'conv_general_dilated': convolve, 'padding': ((1, 1), (1, 1))},
    'groups': {'feature_group_count': 2},
}


class Layers(nn.Module):
    """Two layers into maps, dense or convolutional, by the library's own convolution or linen's."""

    how: str
    width: int = 8

    @nn.compact
    def __call__(self, x):
        for name in 'ab':
            if self.how == 'heads':
                h = nn.DenseGeneral((2, 4), name=name)(x).reshape(x.shape)
            elif self.how == 'dense':
                h = nn.Dense(self.width, name=name)(x)
            else:
                h = nn.Conv(self.width, (3, 3), name=name, **OWN[self.how])(x)
            if self.how == 'scaled':
                h *= self.param(f'scale_{name}', nn.initializers.ones, (self.width,))
            x = rlra_jax.Site(jnp.tanh, name=f'act_{name}')(h)
        return nn.Dense(4, name='read')(x.mean((1, 2)))


def way(how, sends, size=5, width=8):
    return way_of(Layers(how, width), sends, size)


def way_of(model, sends, size=5):
    """(the way back from act_b, a random E, an error there)."""
    batch = {'image': jax.random.normal(KEY, (size, 6, 6, 8)), 'label': jnp.zeros(size, int)}
    net = rlra_jax.regions(model, batch)
    variables = helpers.filled(net.variable_shapes())
    wiring = rlra_jax.wire_reverse(net, kind=rlra_jax.Path(sends), rule=rlra_jax.KolenPollack())
    params, stats = split(variables)
    seen = apart.forward(net.model, variables, batch['image'])
    z = {name: phi(seen.h[name]) for name, phi in seen.phi.items()}
    values = {'params': params, 'stats': stats, 'z': z, 'x': batch, 'key': {'': KEY}}
    programs = apart.cut_model(net.model, variables, batch['image'], KEY).programs()
    path = find_ways(wiring, programs, values)['act_b']
    E = {name: jax.random.normal(jax.random.key(i), params[name].shape) for i, name in enumerate(path.weights)}
    return path, E, jax.random.normal(jax.random.key(7), seen.h['act_b'].shape)


@pytest.mark.parametrize('how', ['dense', 'linen', 'scaled', 'strided', 'patches'])
def test_the_channels_of_the_largest_errors_are_sent(how):
    path, E, e = way(how, 3 / 8)
    whole, _, _ = way(how, 1.0)
    size = np.abs(np.asarray(e * E.get('scale_b', 1))).mean((0, 1, 2))
    small = np.argsort(size)[: 8 - 3]
    (came,), (expected,) = path.send(E, e).values(), whole.send(E, e.at[..., small].set(0)).values()
    np.testing.assert_allclose(came, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(came - whole.send(E, e)['act_b->act_a']).max() > 0.1


@pytest.mark.parametrize(('width', 'sends'), [(1, 0.25), (3, 0.5), (5, 0.5), (8, 3 / 8)])
def test_patches_send_what_convolutions_do(width, sends):
    """All taps of the channels that send, of narrow layers too."""
    path, E, e = way('patches', sends, width=width)
    other, _, _ = way('linen', sends, width=width)
    np.testing.assert_allclose(path.send(E, e)['act_b->act_a'], other.send(E, e)['act_b->act_a'], atol=1e-5)


def test_of_heads_the_same_channels_send():
    path, E, e = way('heads', 1 / 4)
    whole, _, _ = way('heads', 1.0)
    heads = e.reshape(*e.shape[:-1], 2, 4)
    kept = np.arange(4) == np.argmax(np.abs(heads).sum((0, 1, 2, 3)))
    expected = whole.send(E, jnp.where(kept, heads, 0).reshape(e.shape))['act_b->act_a']
    np.testing.assert_allclose(path.send(E, e)['act_b->act_a'], expected, rtol=1e-5, atol=1e-5)


def test_groups_of_channels_are_sent_whole():
    path, E, e = way('groups', 1 / 8)
    whole, _, _ = way('groups', 1.0)
    np.testing.assert_array_equal(path.send(E, e)['act_b->act_a'], whole.send(E, e)['act_b->act_a'])


@pytest.mark.parametrize('how', ['linen', 'patches'])
def test_it_takes_as_much_less_arithmetic(how):
    def flops(sends):
        path, E, e = way(how, sends, size=20)
        return jax.jit(path.send).lower(E, e).compile().cost_analysis()['flops']

    assert flops(1 / 4) < 0.4 * flops(1.0)  # with the additions of 9 taps


def test_what_a_synapse_sees_and_learns_is_whole():
    """A mirror must know what E does to all that it may send."""
    path, E, e = way('linen', 1 / 4)
    whole, _, _ = way('linen', 1.0)
    signals = whole.send(E, e)
    np.testing.assert_array_equal(path.see(E, signals), whole.see(E, signals))
    for a, b in zip(*(jax.tree.leaves(p.correlate(E, e, signals)) for p in (path, whole)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('sends', [0, -0.5, 1.5, float('nan')])
def test_a_share_of_channels(sends):
    with pytest.raises(ValueError, match='sends must be a share of channels, above 0 and at most 1'):
        rlra_jax.Path(sends)


def test_edges_from_one_source_send_alike():
    batch = helpers.make_batch()
    net = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=8, depth=4, gap=2, classes=4), batch)
    wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.KolenPollack())
    edges = [
        dataclasses.replace(edge, kind=rlra_jax.Path(0.5)) if edge.name == 'hidden_4->hidden_2' else edge
        for edge in wiring.edges
    ]
    learner = rlra_jax.update_fn(net, rlra_jax.wire(net, edges))
    with pytest.raises(ValueError, match=r"sends must be alike for all edges from 'hidden_4'; got \[0.5, 1.0\]"):
        jax.eval_shape(learner.update, *jax.eval_shape(learner.init, KEY), batch, KEY)


def test_modules_send_inside_blocks_alone():
    batch = helpers.make_batch()
    net = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=8, depth=4, gap=2, classes=4), batch)
    block = {'block': lambda name: (int(name[7:]) + 1) // 2}
    whole, part = (rlra_jax.wire_modules(net, **block, overlap=1, sends=sends) for sends in (1.0, 0.5))
    for before, after in zip(whole.edges, part.edges, strict=True):
        inside = before.source != 'output' and before.kind.follows
        assert after == (dataclasses.replace(before, kind=rlra_jax.Path(0.5)) if inside else before)
    by_name = named({'name': 'rec_lra', 'wiring': 'modules', 'sends': 0.5, 'rule': 'kp'})['wiring']
    assert {edge.kind for edge in by_name(net, **block).edges if edge.source != 'output'} == {rlra_jax.Path(0.5)}
    with pytest.raises(ValueError, match='sends'):
        named({'name': 'rec_lra', 'wiring': 'reverse', 'sends': 0.5})


def test_regions_learn_from_what_is_sent():
    """Those that hear over such paths get an error of fewer channels of the source, and their update is of it."""
    batch = helpers.make_batch()
    net = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=8, depth=4, gap=2, classes=4), batch)
    grads = []
    for sends in (1.0, 0.5):
        wiring = rlra_jax.wire_modules(
            net, block=lambda name: (int(name[7:]) + 1) // 2, rule=rlra_jax.KolenPollack(), sends=sends
        )
        learner = rlra_jax.update_fn(net, wiring, rlra_jax.Options(beta=0.5), synapse_std=0.5)
        weights, state = helpers.filled(jax.eval_shape(learner.init, KEY), 0.5)
        grads.append(flatten(jax.jit(learner.update)(weights, state, batch, KEY)[0]['params']))
    whole, part = grads
    for path in whole:
        moved = np.abs(part[path] - whole[path]).max()
        assert (moved > 1e-4) == any(f'dense_{i}/' in path for i in (1, 3)), path
        assert np.abs(part[path]).max() > 1e-4


class Resized(nn.Module):
    """A map, twice as large, then summed with fixed weights: no parameter stands between the Sites."""

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='act_a')(nn.Dense(8, name='a')(x))
        z = jax.image.resize(z, (len(x), 12, 6, 8), 'linear')
        fixed = np.sin(np.arange(64, dtype=np.float32)).reshape(8, 8)
        z = rlra_jax.Site(jnp.tanh, name='act_b')(z @ fixed)
        return nn.Dense(4, name='read')(z.mean((1, 2)))


def test_what_meets_no_synapse_is_sent_whole():
    path, E, e = way_of(Resized(), 0.25)
    whole, _, _ = way_of(Resized(), 1.0)
    assert E == {}
    np.testing.assert_array_equal(path.send(E, e)['act_b->act_a'], whole.send(E, e)['act_b->act_a'])
