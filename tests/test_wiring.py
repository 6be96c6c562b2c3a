import dataclasses
import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest
from hand_made import fed, pathways, regions, sized

import rlra_jax
from rlra_jax.learners.rec_lra import WIRINGS
from rlra_jax.types import Edge, Region, Wiring
from rlra_jax.wiring import check_wiring


def test_direct_is_one_level():
    wiring = rlra_jax.wire_direct(regions('a', 'b', 'c'))
    assert pathways(wiring) == [[('output', 'a'), ('output', 'b'), ('output', 'c')]]


def test_chain_is_a_level_per_region():
    wiring = rlra_jax.wire_chain(regions('a', 'b', 'c'))
    assert pathways(wiring) == [[('output', 'c')], [('c', 'b')], [('b', 'a')]]


def test_blocks_follow_algorithm_1():
    """Layers 2, 4 and the last hidden one from the output, the others from the layer above: depth 2 for gap 2."""
    wiring = rlra_jax.wire_blocks(regions('1', '2', '3', '4', '5'), gap=2)
    assert pathways(wiring) == [[('output', '2'), ('output', '4'), ('output', '5')], [('2', '1'), ('4', '3')]]


def test_blocks_of_gap_3_have_three_levels():
    wiring = rlra_jax.wire_blocks(regions(*'123456'), gap=3)
    assert pathways(wiring) == [[('output', '3'), ('output', '6')], [('3', '2'), ('6', '5')], [('2', '1'), ('5', '4')]]


def test_figure_1_depth_2_counts_its_processors():
    """The paper's example: 8 layers, bottlenecks 2, 5 and 8, then five more at once."""
    edges = [Edge('output', t) for t in '258'] + [Edge(s, t) for s, t in ('21', '54', '53', '87', '86')]
    wiring = rlra_jax.wire(regions(*'12345678'), edges)
    assert [len(level) for level in wiring.levels] == [3, 5]


def test_level_is_one_above_the_highest_source():
    edges = [Edge('output', 'c'), Edge('c', 'b'), Edge('b', 'a'), Edge('output', 'a')]
    wiring = rlra_jax.wire(regions('a', 'b', 'c'), edges)
    assert [sorted(e.name for e in level) for level in wiring.levels] == [
        ['output->c'],
        ['c->b'],
        ['b->a', 'output->a'],
    ]


def test_modules_are_blocks_whose_last_region_hears_the_output():
    """The paper's residual scheme: blocks nest by path, a Site outside them belongs to the block above, skips stay."""
    stem, inner, middle, out, other = (
        'stem',
        'stage_0/block_0/act_0',
        'stage_0/block_0/act_1',
        'stage_0/block_0/out',
        'stage_0/block_1/out',
    )
    graph = [fed(stem), fed(inner, stem), fed(middle, inner), fed(out, stem, middle, skips=(stem,))]
    graph += [fed(other, out, skips=(out,)), fed('output', other)]
    wiring = rlra_jax.wire_modules(graph)
    assert pathways(wiring) == [
        sorted([('output', out), ('output', other)]),
        [(out, middle)],
        [(middle, inner)],
        sorted([(inner, stem), (out, stem)]),
    ]
    assert {e.name for e in wiring.edges if e.kind == 'identity'} == {f'{out}->{stem}'}
    stages = rlra_jax.wire_modules(graph, block=lambda name: name.partition('/')[0])
    assert pathways(stages)[0] == sorted([('output', stem), ('output', other)])
    assert pathways(stages)[1:] == [[(other, out)], [(out, middle)], [(middle, inner)]]
    pairs = rlra_jax.wire_modules(graph, modules_per_block=2)
    assert pathways(pairs) == [[('output', other)], *pathways(rlra_jax.wire_reverse(graph))[1:]]


def test_of_modules_that_do_not_divide_the_lowest_block_has_the_rest():
    graph = [fed('a/act'), fed('b/act', 'a/act'), fed('c/act', 'b/act'), fed('output', 'c/act')]
    pairs = rlra_jax.wire_modules(graph, modules_per_block=2)
    assert pathways(pairs) == [[('output', 'a/act'), ('output', 'c/act')], [('c/act', 'b/act')]]


def test_without_modules_every_region_is_a_block():
    wiring = rlra_jax.wire_modules([fed('hidden_1'), fed('hidden_2', 'hidden_1'), fed('output', 'hidden_2')])
    assert pathways(wiring) == [[('output', 'hidden_1'), ('output', 'hidden_2')]]


def test_every_end_of_a_block_hears_the_output():
    graph = [fed('a/left'), fed('a/right'), fed('output', 'a/left', 'a/right')]
    assert pathways(rlra_jax.wire_modules(graph)) == [[('output', 'a/left'), ('output', 'a/right')]]


def test_maps_in_bfloat16_hear_errors_in_bfloat16():
    wide, narrow = (Region(name, (2, 8, 8, 3), jnp.bfloat16) for name in ('wide', 'narrow'))
    assert rlra_jax.kind_by_shape(narrow, wide) == rlra_jax.kind_pooled(narrow, wide) == 'conv_transpose_bf16'
    assert rlra_jax.kind_by_shape(narrow, dataclasses.replace(wide, dtype=jnp.float32)) == 'conv_transpose'


def test_kinds_follow_shapes():
    maps = sized(wide=(8, 8, 3), same=(8, 8, 5), small=(4, 4, 6), tokens=(7, 5), more=(7, 9), units=(20,))
    maps += sized(point=(1, 1, 6), thick=(1, 2, 8))[:-1]
    maps = [*sized(huge=(64, 64, 128), vast=(64, 64, 65536), many=(4_000_001,)), *maps]
    by_name = {region.name: region for region in maps}
    expected = {
        ('output', 'units'): 'dense',
        ('output', 'wide'): 'dense',
        ('small', 'units'): 'dense',
        ('small', 'wide'): 'conv_transpose',
        ('same', 'wide'): 'conv_transpose',
        ('wide', 'small'): 'dense',
        ('more', 'tokens'): 'token',
        ('small', 'tokens'): 'dense',
        ('output', 'huge'): 'grid',
        ('output', 'vast'): 'grid',
        ('output', 'many'): 'dense',
        ('point', 'small'): 'dense',
        ('thick', 'wide'): 'dense',
    }
    assert {ends: rlra_jax.kind_by_shape(*(by_name[end] for end in ends)) for ends in expected} == expected
    pooled = {ends: rlra_jax.kind_pooled(*(by_name[end] for end in ends)) for ends in expected}
    assert pooled == {
        **expected,
        ('output', 'wide'): 'channel',
        ('output', 'huge'): 'channel',
        ('output', 'vast'): 'channel',
    }


def test_kind_may_be_a_name_or_a_function_of_both_regions():
    maps = sized(wide=(8, 8, 3), small=(4, 4, 6))

    def kind(source, target):
        return 'channel' if source.name == 'output' else rlra_jax.kind_by_shape(source, target)

    chosen = {
        name: [e.kind for e in rlra_jax.wire_chain(maps, kind=k).edges]
        for name, k in {'name': 'channel', 'shape': 'by_shape', 'pooled': 'pooled', 'function': kind}.items()
    }
    assert chosen == {
        'name': ['channel', 'channel'],
        'shape': ['dense', 'conv_transpose'],
        'pooled': ['channel', 'conv_transpose'],
        'function': ['channel', 'conv_transpose'],
    }


def test_reverse_follows_the_forward_graph():
    graph = [fed('a'), fed('b', 'a'), fed('c', 'a', 'b', skips=('a',)), fed('output', 'b', 'c')]
    wiring = rlra_jax.wire_reverse(graph, kind='dense')
    assert [sorted((e.name, e.kind) for e in level) for level in wiring.levels] == [
        [('output->c', 'dense')],
        [('c->b', 'dense'), ('output->b', 'dense')],
        [('b->a', 'dense'), ('c->a', 'identity')],
    ]


def test_reverse_of_a_region_that_feeds_nothing():
    with pytest.raises(ValueError, match=r"no error edge reaches \['b'\]"):
        rlra_jax.wire_reverse([fed('a'), fed('b', 'a'), fed('output', 'a')])


def test_wirings_are_static_arguments():
    one, other = (rlra_jax.wire_blocks(regions('a', 'b')) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ('edges', 'message'),
    [
        ([Edge('output', 'a'), Edge('output', 'x')], "unknown region 'x'"),
        ([Edge('output', 'a'), Edge('y', 'b')], "unknown region 'y'"),
        ([Edge('output', 'a')], r"no error edge reaches \['b'\]"),
        ([Edge('a', 'b'), Edge('b', 'a')], r"acyclic; no order reaches \['a', 'b'\]"),
        ([Edge('output', 'b'), Edge('a', 'a')], r"acyclic; no order reaches \['a'\]"),
        ([Edge('output', 'a'), Edge('output', 'b'), Edge('a', 'output')], "into the output 'output'"),
        ([Edge('output', 'a'), Edge('output', 'b', kind='sparse')], "unknown kind 'sparse'; known: .*dense"),
        ([Edge('output', 'a'), Edge('output', 'b', rule='oja')], "unknown rule 'oja'; known: .*mirror"),
        ([Edge('output', 'a'), Edge('output', 'b'), Edge('output', 'b')], 'given twice'),
    ],
)
def test_bad_edges(edges, message):
    with pytest.raises(ValueError, match=message):
        rlra_jax.wire(regions('a', 'b'), edges)


def test_levels_out_of_order():
    wiring = Wiring('output', ((Edge('b', 'a'),), (Edge('output', 'b'),)))
    with pytest.raises(ValueError, match="edge b->a is in level 1, but 'a' is of level 2"):
        check_wiring(wiring, regions('a', 'b'))


def test_wrong_output():
    with pytest.raises(ValueError, match="starts at 'b', but the output is 'output'"):
        check_wiring(Wiring('b', ((Edge('b', 'a'),),)), regions('a', 'b'))


@pytest.mark.parametrize('gap', [0, -1])
def test_bad_gap(gap):
    with pytest.raises(ValueError, match=f'at least 1; got {gap}'):
        rlra_jax.wire_blocks(regions('a'), gap=gap)


def test_bad_modules_per_block():
    with pytest.raises(ValueError, match=r'modules_per_block must be .*at least 1; got 0'):
        rlra_jax.wire_modules(regions('a'), modules_per_block=0)


@pytest.mark.parametrize('name', ['direct', 'chain', 'modules', 'reverse'])
def test_model_without_sites(name):
    model = rlra_jax.nn.MLP(widths=())
    with pytest.raises(ValueError, match='this model has no Site'):
        WIRINGS[name](rlra_jax.sites(model, helpers.make_batch()['image']))


@pytest.mark.parametrize('wire', [*WIRINGS.values(), functools.partial(rlra_jax.wire_auto, devices=2)])
def test_no_regions_at_all(wire):
    with pytest.raises(ValueError, match='this model has no Site'):
        wire([])


class Branches(nn.Module):
    """b does not hear a, though it is called after it; c hears both."""

    @nn.compact
    def __call__(self, x):
        a = rlra_jax.Site(jnp.tanh, name='a')(nn.Dense(3)(x))
        b = rlra_jax.Site(jnp.tanh, name='b')(nn.Dense(5)(x))
        return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='c')(nn.Dense(7)(jnp.concatenate([a, b], axis=1))))


def test_regions_hear_none_that_they_do_not_feed():
    x = helpers.make_batch()['image']
    regions = rlra_jax.sites(Branches(), x)
    assert pathways(rlra_jax.wire_chain(regions)) == [[('output', 'a'), ('output', 'c')], [('c', 'b')]]
    assert pathways(rlra_jax.wire_auto(regions, devices=1)) == [[('output', 'c')], [('c', 'a'), ('c', 'b')]]
    edges = [Edge('output', 'c'), Edge('c', 'b'), Edge('b', 'a')]
    variables = Branches().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="'mirror' of edge b->a learns how 'b' responds to 'a'; but no activity"):
        rlra_jax.init_feedback(jax.random.key(1), Branches(), rlra_jax.wire(regions, edges), variables, x)
