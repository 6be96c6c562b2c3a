"""Where blocks end, and which neighbours are taken for one and the same function."""

import dataclasses
import itertools
import types

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest

import rlra_jax
from rlra_jax.parallel.blocks import find_runs, find_stages
from rlra_jax.parallel.dissect import dissect
from rlra_jax.recursion.options import Options

MIDDLE = 'hidden_5'  # the lower region of a block of two


@pytest.mark.parametrize(
    ('edge', 'options'),
    [
        ({'kind': rlra_jax.Path()}, {}),
        ({'rule': rlra_jax.Fixed()}, {}),
        ({}, {'kappa': {MIDDLE: 0.5}}),
        ({}, {'alpha': {MIDDLE: 0.5}}),
    ],
)
def test_a_block_unlike_its_neighbours_is_a_run_of_its_own(edge, options):
    model, variables, batch = helpers.make_mlp(depth=9, gap=2)
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='mirror')
    parts = apart.dissect(model, variables, batch['image'], jax.random.key(0), train_kwargs=None)
    alike = find_runs(parts, wiring, Options())
    (longest,) = (run for run in alike if any(MIDDLE in block.regions for block in run))
    assert len(longest) > 2
    levels = tuple(
        tuple(dataclasses.replace(e, **edge) if e.target == MIDDLE else e for e in level) for level in wiring.levels
    )
    runs = find_runs(parts, rlra_jax.Wiring(wiring.outputs, levels), Options(**options))
    (own,) = (run for run in runs if any(MIDDLE in block.regions for block in run))
    assert len(own) == 1
    assert sum(map(len, runs)) == sum(map(len, alike))


class Skipping(nn.Module):
    """c hears a over a skip past b."""

    @nn.compact
    def __call__(self, x):
        a = rlra_jax.Site(jnp.tanh, name='a')(nn.Dense(5)(x))
        b = rlra_jax.Site(jnp.tanh, name='b')(nn.Dense(5)(a))
        c = rlra_jax.Site(jnp.tanh, name='c')(nn.Dense(5)(a) + nn.Dense(5)(b))
        return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='d')(nn.Dense(5)(c)))


def test_a_path_from_the_output_keeps_its_target_with_the_output():
    """The way back over it needs what the readout did."""
    batch = helpers.make_batch()
    model = Skipping()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    wiring = rlra_jax.wire_direct(apart.sites(model, batch['image']), rule=rlra_jax.KolenPollack())
    assert [edge.target for edge in wiring.edges if edge.kind.follows] == ['d']
    parts = apart.dissect(model, variables, batch['image'], jax.random.key(0), train_kwargs=None)
    blocks = [block for run in find_runs(parts, wiring, Options()) for block in run]
    assert [list(block.regions) for block in blocks] == [['a'], ['b', 'c'], ['d', 'output']]
    assert blocks[-1].edges == ('output-> Dense_4/kernel',)


@pytest.mark.parametrize(
    ('inner', 'rule', 'expected'),
    [
        (('b', 'a'), 'kp', [['a', 'b', 'c'], ['d'], ['output']]),
        (('b', 'a'), 'mirror', [['a', 'b', 'c'], ['d'], ['output']]),  # c hears noise at a, but does not hand it on
        (('d', 'b'), 'kp', [['a'], ['b', 'c', 'd'], ['output']]),
        (('d', 'a'), 'kp', [['a', 'b', 'c', 'd'], ['output']]),
    ],
)
def test_blocks_end_where_nothing_else_passes(inner, rule, expected):
    batch = helpers.make_batch()
    model = Skipping()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    edges = [helpers.edge('output', name, rule=rule) for name in 'abcd' if name != inner[1]]
    wiring = rlra_jax.wire(apart.sites(model, batch['image']), [*edges, helpers.edge(*inner, rule=rule)])
    parts = apart.dissect(model, variables, batch['image'], jax.random.key(0), train_kwargs=None)
    if len(expected) < 3:
        with pytest.raises(ValueError, match='behind c: edge d->a'):
            find_runs(parts, wiring, Options())
    else:
        found = [list(block.regions) for run in find_runs(parts, wiring, Options()) for block in run]
        assert found == expected


@pytest.mark.parametrize('sizes', [(5, 1, 1, 1, 1), (1, 1, 1, 1, 5), (4, 2, 3, 1, 6), (1, 7, 2, 2, 2), (3, 3, 3, 3, 3)])
@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_stages_are_cut_so_that_the_largest_is_least(sizes, count):
    model, variables, batch = helpers.make_mlp(depth=4)
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule='kp')
    parts = apart.dissect(model, variables, batch['image'], jax.random.key(0), train_kwargs=None)
    runs = find_runs(parts, wiring, Options())
    names = list(parts)
    weights = {}
    for name, size in zip(names, sizes, strict=True):
        weights |= {
            path: types.SimpleNamespace(size=size if i == 0 else 0) for i, path in enumerate(parts[name].params)
        }
    stages = find_stages(runs, parts, wiring, Options(), weights, count)
    assert [name for stage in stages for name in stage.regions] == names
    assert len(stages) == count
    largest = max(sum(sizes[names.index(name)] for name in stage.regions) for stage in stages)
    cuts = itertools.combinations(range(1, len(sizes)), count - 1)
    shares = ([0, *cut, len(sizes)] for cut in cuts)
    assert largest == min(max(sum(sizes[a:b]) for a, b in itertools.pairwise(share)) for share in shares)


@pytest.mark.parametrize(('rule', 'apart'), [('kp', True), ('fixed', True), ('mirror', False)])
def test_own_errors_end_in_the_block_below(rule, apart):
    """Unless their synapses learn from noise."""
    model, _, batch, wiring = helpers.make_skips(blocks=3, overlap=1)
    net = rlra_jax.regions(model, batch)
    along = [dataclasses.replace(e, rule=helpers.RULES[rule]()) if e.source != 'output' else e for e in wiring.edges]
    parts = dissect(net, net.variable_shapes(), batch['image'], jax.random.key(0))
    found = rlra_jax.wire(net, along)
    if not apart:
        with pytest.raises(ValueError, match=r'behind hidden_2: edge hidden_[34]->hidden_2'):
            find_runs(parts, found, Options())
        return
    blocks = [block for run in find_runs(parts, found, Options()) for block in run]
    assert [[edge.name for edge in block.handed] for block in blocks] == [
        [],
        ['hidden_4->hidden_2', 'hidden_3->hidden_2'],
        ['hidden_6->hidden_4', 'hidden_5->hidden_4'],
    ]
