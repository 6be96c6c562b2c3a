import apart
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from hand_made import pathways, sized

import rlra_jax

BOTTLENECKS = sized(**{f'r{i}': (16,) if i in (2, 5, 8) else (256,) for i in range(1, 9)})


def test_is_the_papers_example():
    """8 layers, bottlenecks 2, 5 and 8, 5 GPUs: 'first 3 GPUs for layers 8, 5, and 2 and then 5 for the remaining'."""
    wiring = rlra_jax.wire_auto(BOTTLENECKS, devices=5)
    assert pathways(wiring) == [
        [('output', 'r2'), ('output', 'r5'), ('output', 'r8')],
        [('r2', 'r1'), ('r5', 'r3'), ('r5', 'r4'), ('r8', 'r6'), ('r8', 'r7')],
    ]


def test_with_a_device_for_each_region_is_direct():
    assert rlra_jax.wire_auto(BOTTLENECKS, devices=8) == rlra_jax.wire_direct(BOTTLENECKS)


@pytest.mark.parametrize('devices', [1, 2, 3, 4, 6])
@pytest.mark.parametrize('count', [1, 2, 5, 7, 12])
def test_balances_levels_of_equal_regions(devices, count):
    """No more rounds than regions need on that many devices, and at most two levels, whatever their number."""
    same = sized(**{f'r{i}': (8,) for i in range(count)})
    wiring = rlra_jax.wire_auto(same, devices=devices)
    assert len(wiring.levels) <= 2
    assert sum(-(-len(level) // devices) for level in wiring.levels) == max(-(-count // devices), len(wiring.levels))
    assert f'output->r{count - 1}' in [edge.name for edge in wiring.levels[0]]


def test_spreads_level_1_over_equal_regions():
    same = sized(**{f'r{i}': (8,) for i in range(1, 9)})
    wiring = rlra_jax.wire_auto(same, devices=4)
    assert [sorted(e.target for e in level) for level in wiring.levels] == [
        ['r2', 'r4', 'r6', 'r8'],
        ['r1', 'r3', 'r5', 'r7'],
    ]


def test_meets_a_budget_with_cheaper_synapses():
    maps = sized(wide=(16, 16, 8), small=(8, 8, 16), units=(32,))
    plain = rlra_jax.wire_auto(maps, devices=3)
    assert {(e.name, e.kind) for e in plain.edges} == {
        (f'output->{to}', rlra_jax.Dense()) for to in ('wide', 'small', 'units')
    }
    sizes = {'units': 10 * 32, 'small': 10 * 8 * 8 * 16, 'wide': 10 * 16 * 16 * 8}
    assert rlra_jax.wire_auto(maps, devices=3, max_synapses=sum(sizes.values())) == plain
    tight = rlra_jax.wire_auto(maps, devices=3, max_synapses=sum(sizes.values()) - 1)
    assert {e.target: e.kind for e in tight.edges} == {
        'units': rlra_jax.Dense(),
        'small': rlra_jax.Dense(),
        'wide': rlra_jax.Grid(),
    }
    grids = rlra_jax.wire_auto(maps, devices=3, max_synapses=10 * (32 + 16 * 16 + 16 * 8))
    assert {e.target: e.kind for e in grids.edges} == {
        'units': rlra_jax.Dense(),
        'small': rlra_jax.Grid(),
        'wide': rlra_jax.Grid(),
    }
    least = 10 * 32 + 10 * 16 + 10 * 8
    least_wiring = rlra_jax.wire_auto(maps, devices=3, max_synapses=least)
    assert {e.target: e.kind for e in least_wiring.edges} == {
        'units': rlra_jax.Dense(),
        'small': rlra_jax.Channel(),
        'wide': rlra_jax.Channel(),
    }
    with pytest.raises(ValueError, match=f'max_synapses must be at least {least} .* got {least - 1}'):
        rlra_jax.wire_auto(maps, devices=3, max_synapses=least - 1)


def test_a_budget_counts_a_path_once_and_leaves_it():
    """The readout reads both regions, so the edges from it are a path that holds its kernels."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh, name='one')(nn.Conv(2, (3, 3))(x))
            low = z.reshape(len(z), -1)
            z = rlra_jax.Site(jnp.tanh, name='two')(nn.Dense(5)(low))
            return nn.Dense(3)(z) + nn.Dense(3)(low)

    regions = apart.sites(Net(), jax.ShapeDtypeStruct((4, 6, 6, 1), jnp.float32))
    size = (5 + 72) * 3
    wiring = rlra_jax.wire_auto(regions, devices=2, max_synapses=size)
    assert [(edge.name, edge.kind) for edge in wiring.edges] == [
        ('output->one', rlra_jax.Path()),
        ('output->two', rlra_jax.Path()),
    ]
    with pytest.raises(ValueError, match=f'max_synapses must be at least {size} .* got {size - 1}'):
        rlra_jax.wire_auto(regions, devices=2, max_synapses=size - 1)


def test_a_budget_counts_each_copy_of_a_shared_synapse_and_changes_them_together():
    """A convolution and its Site are called three times; the edges to these calls hold one E."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            convolution, site = nn.Conv(4, (3, 3)), rlra_jax.Site(jnp.tanh, name='act')
            for _ in range(3):
                x = site(convolution(x))
            return nn.Dense(5)(x.mean((1, 2)))

    batch = {'image': jnp.ones((3, 8, 8, 4)), 'label': jnp.arange(3)}
    net = rlra_jax.regions(Net(), batch)
    path, dense, grid = 4 * 5, 5 * 8 * 8 * 4, 5 * 4 * 4 * 4
    for most, kind in ((path + 2 * dense, rlra_jax.Dense()), (path + 2 * dense - 1, rlra_jax.Grid())):
        wiring = rlra_jax.wire_auto(net, devices=9, max_synapses=most)
        assert [edge.kind for edge in wiring.edges] == [kind, kind, rlra_jax.Path()]
        update = rlra_jax.update_fn(net, wiring)
        weights, state = update.init(jax.random.key(0))
        assert sum(E.size for E in jax.tree.leaves(weights['synapses'])) <= most
        jax.eval_shape(update.update, weights, state, batch, jax.random.key(1))
    with pytest.raises(ValueError, match=f'at least {path + 2 * 5 * 4}'):
        rlra_jax.wire_auto(net, devices=9, max_synapses=grid // 20)


def test_a_budget_makes_straight_synapses_cheaper_beside_paths():
    model = rlra_jax.nn.CNN(widths=(2, 3), strides=(1, 1), classes=4)
    regions = apart.sites(model, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    path, dense = 4 * 8 * 8 * 3, 4 * 8 * 8 * 2
    for most, kind in ((path + dense, rlra_jax.Dense()), (path + dense - 1, rlra_jax.Grid())):
        found = rlra_jax.wire_auto(regions, devices=2, max_synapses=most)
        assert {edge.target: edge.kind for edge in found.edges} == {'hidden_1': kind, 'hidden_2': rlra_jax.Path()}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'devices': 0}, 'devices must be a whole number of at least 1; got 0'),
        ({'devices': 2, 'max_synapses': 0}, 'max_synapses must be a whole number'),
    ],
)
def test_with_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        rlra_jax.wire_auto(BOTTLENECKS, **options)
