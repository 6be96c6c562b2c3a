"""Steps level by level and block by block give the updates of the plain step, whatever regions differ in."""

import dataclasses

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest

import rlra_jax
from rlra_jax import Carries, Dense, KolenPollack, Options, Site
from rlra_jax.parallel import level_update_fn, make_mesh, stream_update_fn

KEY = jax.random.key(1)
OPTIONS = Options(beta=0.5)


def both(mode, net, wiring, batch, options=OPTIONS, key=KEY):
    """What the plain step and that mode's return for the same weights."""
    plain = rlra_jax.update_fn(net, wiring, options, synapse_std=0.5)
    if mode == 'level':
        own = level_update_fn(net, wiring, make_mesh(devices=jax.devices()[:1]), options, synapse_std=0.5)
    else:
        own = stream_update_fn(net, wiring, options, synapse_std=0.5)
    weights, state = plain.init(KEY)
    return [jax.jit(step.update)(weights, state, batch, key) for step in (plain, own)]


def make_net(model=None):
    batch = helpers.make_batch()
    return rlra_jax.regions(model or rlra_jax.nn.MLP(widths=(6,) * 4, classes=4), batch), batch


@pytest.mark.parametrize(
    'options', [{'kappa': {'hidden_3': 0.25}}, pytest.param({'alpha': {'hidden_3': 0.5}}, marks=pytest.mark.full)]
)
def test_regions_with_options_of_their_own_do_not_learn_as_one(options):
    net, batch = make_net()
    wiring = rlra_jax.wire_direct(net, rule=KolenPollack())
    helpers.assert_updates_agree(*both('level', net, wiring, batch, Options(beta=0.5, **options)))


@pytest.mark.parametrize('mode', ['stream', pytest.param('level', marks=pytest.mark.full)])
def test_noise_over_skips_takes_the_same_passes(mode):
    net, batch = make_net(rlra_jax.nn.ResidualMLP(width=6, depth=8, gap=2, classes=4))
    wiring = rlra_jax.wire_blocks(net, gap=4, rule=rlra_jax.Mirror())
    helpers.assert_updates_agree(*both(mode, net, wiring, batch))


def test_regions_with_rules_of_their_own_do_not_learn_as_one():
    net, batch = make_net()
    edges = rlra_jax.wire_direct(net, kind=Dense(), rule=KolenPollack()).edges
    edges = [dataclasses.replace(e, rule=rlra_jax.Hebbian()) if e.target == 'hidden_3' else e for e in edges]
    helpers.assert_updates_agree(*both('level', net, rlra_jax.wire(net, edges), batch))


class Frozen(nn.Module):
    """Two layers on one that no error reaches."""

    @nn.compact
    def __call__(self, x):
        z = jax.lax.stop_gradient(Site(jnp.tanh, name='backbone')(nn.Dense(6, name='frozen')(x)))
        for i in (1, 2):
            z = Site(jnp.tanh, name=f'head_{i}')(nn.Dense(6, name=f'dense_{i}')(z))
        return nn.Dense(4, name='readout')(z)


@pytest.mark.filterwarnings('ignore:no error comes to')
@pytest.mark.parametrize('mode', ['level', pytest.param('stream', marks=pytest.mark.full)])
def test_a_frozen_backbone(mode):
    net, batch = make_net(Frozen())
    helpers.assert_updates_agree(*both(mode, net, rlra_jax.wire_direct(net, rule=KolenPollack()), batch))


class Few(nn.Module):
    """Computes in bfloat16, with parameters and outputs of float32."""

    @nn.compact
    def __call__(self, x):
        for i in range(4):
            x = Site(jnp.tanh, name=f'act_{i}')(nn.Dense(6, dtype=jnp.bfloat16)(x))
        return nn.Dense(4, dtype=jnp.float32)(x)


def test_levels_of_a_model_in_bfloat16():
    net, batch = make_net(Few())
    (expected, *_), (came, *_) = both('level', net, rlra_jax.wire_direct(net, kind=Dense(), rule=KolenPollack()), batch)
    helpers.assert_updates_agree(expected['synapses'], came['synapses'], 1e-4)


class Read(nn.Module):
    """The output is a sum of what it reads of two of four layers, and more."""

    how: str

    @nn.compact
    def __call__(self, x):
        z = [x]
        for name in 'abcd':
            z.append(Site(jnp.tanh, name=name)(nn.Dense(5, name=f'to_{name}')(z[-1])))
        below, above = nn.Dense(4, name='read_b')(z[2]), nn.Dense(4, name='read_d', use_bias=False)(z[4])
        if self.how == 'a constant':
            return below + above + 1.0
        return below + nn.BatchNorm(use_running_average=False, name='norm')(above)


@pytest.mark.parametrize('how', ['a constant', 'statistics'])
def test_sums_that_hold_more_than_readouts(how):
    net, batch = make_net(Read(how))
    wiring = rlra_jax.wire_direct(net, kind=Dense(), rule=KolenPollack())
    helpers.assert_updates_agree(*both('stream', net, wiring, batch), 5e-5)


def test_a_region_that_hears_own_errors_alone():
    net, batch = make_net()
    edges = [helpers.edge('output', f'hidden_{i}', rule='kp') for i in (1, 3, 4)]
    edges.append(dataclasses.replace(helpers.edge('hidden_3', 'hidden_2', 'path', 'kp'), carries=Carries.OWN))
    helpers.assert_updates_agree(*both('stream', net, rlra_jax.wire(net, edges), batch))


def test_keys_of_another_kind():
    net, batch = make_net(helpers.Dropping())
    wiring = rlra_jax.wire_direct(net, kind=Dense(), rule=KolenPollack())
    helpers.assert_updates_agree(*both('stream', net, wiring, batch, key=jax.random.key(2, impl='rbg')))


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(1, 5):
            x = Site(jnp.tanh, name=f'hidden_{i}')(nn.Conv(4, (3, 3))(x))
        return nn.Dense(4)(x.mean(axis=(1, 2)))


@pytest.mark.parametrize('size', [pytest.param(6, marks=pytest.mark.full), 12])
def test_mirrors_hear_maps_of_another_size_than_the_example(size):
    def batch_of(size):
        return {'image': jax.random.normal(KEY, (6, size, size, 2)), 'label': jnp.arange(6) % 4}

    def kind(source, target):
        del target
        return rlra_jax.Channel() if source.output else rlra_jax.Path()

    net = rlra_jax.regions(Pooled(), batch_of(8))
    wiring = rlra_jax.wire_blocks(net, gap=2, kind=kind, rule=rlra_jax.Mirror())
    helpers.assert_updates_agree(*both('stream', net, wiring, batch_of(size)), 1e-4)
