"""Error pathways through the steps of a loop."""

import flax.linen as nn
import helpers
import jax.numpy as jnp
import pytest
from hand_made import fed, pathways, regions

import rlra_jax
from rlra_jax import Dense, Path, Site
from rlra_jax.wiring.levels import check_wiring


def net_of(model, steps=5):
    return rlra_jax.regions(model, {'image': jnp.ones((2, steps, 3)), 'label': jnp.zeros(2, jnp.int32)})


def kinds(wiring):
    """{edge: kind}."""
    return {edge.name: edge.kind for edge in wiring.edges}


@pytest.mark.parametrize(
    ('through', 'passed', 'afar'),
    [
        ('none', (), (0, 1, 2, 3)),
        (1, (), (0, 1, 2, 3)),
        (2, (1, 3), (0, 2)),
        (3, (0, 2, 3), (1,)),
        (5, (0, 1, 2, 3), ()),
        (99, (0, 1, 2, 3), ()),
        ('chain', (0, 1, 2, 3), ()),
    ],
)
def test_steps_of_a_gated_unit(through, passed, afar):
    """Windows are counted from the last; passed: steps that hear the next one; afar: those that hear the output."""
    wiring = rlra_jax.wire_time(net_of(rlra_jax.nn.GRU(4)), through=through)
    near = {'output->state#4', *(f'state#{t}->candidate#{t}' for t in range(5))}
    near |= {f'{source}#{t + 1}->state#{t}' for t in passed for source in ('state', 'candidate')}
    assert kinds(wiring) == dict.fromkeys(near, Path()) | {f'output->state#{t}': Dense() for t in afar}


@pytest.mark.parametrize('through', ['none', 'chain'])
def test_each_step_hears_its_own_output(through):
    wiring = rlra_jax.wire_time(net_of(rlra_jax.nn.Elman(4, every_step=True)), through=through)
    passed = {f'state#{t + 1}->state#{t}' for t in range(4)} if through == 'chain' else set()
    assert kinds(wiring) == dict.fromkeys({f'output->state#{t}' for t in range(5)} | passed, Path())


class Between(nn.Module):
    """A loop between layers that belong to no step."""

    @nn.compact
    def __call__(self, x):
        rows = Site(jnp.tanh, name='embed')(nn.Dense(4, name='embedding')(x))
        act, inward, across = Site(jnp.tanh, name='act'), nn.Dense(4), nn.Dense(4)
        z = jnp.zeros((len(x), 4))
        for t in range(x.shape[1]):
            z = act(inward(rows[:, t]) + across(z))
        return nn.Dense(4)(Site(jnp.tanh, name='head')(nn.Dense(4)(z)))


def test_what_belongs_to_no_step_hears_all_that_it_feeds():
    wiring = rlra_jax.wire_time(net_of(Between(), 3), through='none', kind=rlra_jax.Dense())
    assert pathways(wiring) == [
        [('output', 'act#0'), ('output', 'act#1'), ('output', 'head')],
        [('head', 'act#2')],
        [('act#0', 'embed'), ('act#1', 'embed'), ('act#2', 'embed')],
    ]


CHAIN = (fed('a'), fed('b', 'a'), fed('c', 'b'), fed('d', 'c'), fed('output', 'd'))


def test_steps_that_the_user_tells():
    wiring = rlra_jax.wire_time(CHAIN, through='none', step=lambda name: {'a': 0, 'b': 0, 'c': 1, 'd': None}[name])
    assert pathways(wiring) == [[('output', 'b'), ('output', 'd')], [('b', 'a'), ('d', 'c')]]
    check_wiring(wiring, CHAIN)


def test_kind_and_rule_are_every_edges():
    rule = rlra_jax.KolenPollack()
    wiring = rlra_jax.wire_time(net_of(rlra_jax.nn.Elman(4)), through=2, kind=Dense(), rule=rule)
    assert {(edge.kind, edge.rule) for edge in wiring.edges} == {(Dense(), rule)}


@pytest.mark.parametrize('through', ['all', 0, -1, 1.0, True, None])
def test_another_way_through(through):
    message = "unknown way through time 'all'; known: chain, none|through must be a whole number of at least 1; got"
    with pytest.raises(ValueError, match=message):
        rlra_jax.wire_time(net_of(rlra_jax.nn.Elman(4)), through=through)


class Uneven(nn.Module):
    """Two layers, the lower of which takes two steps at each of the upper."""

    @nn.compact
    def __call__(self, x):
        low, high = Site(jnp.tanh, name='low'), Site(jnp.tanh, name='high')
        for _ in range(2):
            x = high(nn.Dense(7)(low(nn.Dense(7)(low(nn.Dense(7)(x))))))
        return nn.Dense(4)(x)


def test_calls_that_are_no_steps():
    net = rlra_jax.regions(Uneven(), helpers.make_batch())
    with pytest.raises(ValueError, match=r"say step=, .* Here they are called \{'low': 4, 'high': 2\} times"):
        rlra_jax.wire_time(net)
    rlra_jax.wire_time(net, step=lambda name: int(name[-1]) // (2 if name.startswith('low') else 1))


def test_steps_that_are_none():
    net = net_of(rlra_jax.nn.Elman(4))
    with pytest.raises(ValueError, match="step must be a function of a region's name that returns its step; got 3"):
        rlra_jax.wire_time(net, step=3)
    with pytest.raises(ValueError, match=r"the step of '.*' must be a whole number of at least 0; got '0'"):
        rlra_jax.wire_time(net, step=lambda name: '0')


def test_models_without_steps():
    with pytest.raises(ValueError, match=r"this model calls none several times; say step=.* are \['a', 'b'\]"):
        rlra_jax.wire_time(regions('a', 'b'))
