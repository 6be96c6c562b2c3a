import dataclasses
import functools

import pytest
from hand_made import fed, pathways, regions, sized

import rlra_jax
from rlra_jax.learners.rec_lra import WIRINGS
from rlra_jax.types import Edge, Wiring
from rlra_jax.wiring import check_wiring, kind_straight


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
    graph = [fed(stem), fed(inner, stem), fed(middle, inner), fed(out, stem, middle)]
    graph += [fed(other, out), fed('output', other)]
    wiring = rlra_jax.wire_modules(graph)
    assert pathways(wiring) == [
        sorted([('output', out), ('output', other)]),
        [(out, middle)],
        [(middle, inner)],
        sorted([(inner, stem), (out, stem)]),
    ]
    assert {e.name: e.kind for e in wiring.edges if e.kind != 'path'} == {f'output->{out}': 'dense'}
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


def test_errors_from_afar_are_linear_and_no_kind_is_guessed_from_sizes_that_fit():
    maps = sized(wide=(8, 8, 3), same=(8, 8, 5), small=(4, 4, 6), tokens=(7, 5), more=(7, 9), units=(20,))
    maps = [*sized(huge=(64, 64, 128), many=(4_000_001,)), *maps]
    by_name = {region.name: region for region in maps}
    expected = {
        ('output', 'units'): 'dense',
        ('output', 'wide'): 'dense',
        ('small', 'units'): 'dense',
        ('small', 'wide'): 'dense',
        ('same', 'wide'): 'dense',
        ('more', 'tokens'): 'dense',
        ('output', 'huge'): 'grid',
        ('output', 'many'): 'dense',
    }
    for choose in (rlra_jax.kind_by_shape, kind_straight):
        assert {ends: choose(*(by_name[end] for end in ends)) for ends in expected} == expected
    pooled = {ends: rlra_jax.kind_pooled(*(by_name[end] for end in ends)) for ends in expected}
    assert pooled == {**expected, ('output', 'wide'): 'channel', ('output', 'huge'): 'channel'}


@pytest.mark.parametrize(('choose', 'kind'), [('by_shape', 'path'), ('pooled', 'path'), (kind_straight, 'dense')])
def test_neighbours_are_joined_by_their_path(choose, kind):
    wiring = rlra_jax.wire_blocks([fed('a'), fed('b', 'a'), fed('c', 'b'), fed('output', 'c')], gap=2, kind=choose)
    assert {e.name: e.kind for e in wiring.edges} == {'output->b': 'dense', 'output->c': kind, 'b->a': kind}


@pytest.mark.parametrize(('size', 'kind'), [((64, 64, 70_000), 'grid'), ((40_000_001,), 'dense')])
def test_a_synapse_too_large_names_the_choices(size, kind):
    maps = sized(huge=(64, 64, 128) if kind == 'grid' else (20,), vast=size)
    if kind == 'grid':
        maps = [*maps[:-1], dataclasses.replace(maps[-1], shape=(1, 1000))]
    with pytest.raises(ValueError, match=rf"a '{kind}' synapse from 'output' .* to 'vast' .* too large; .*'pooled'"):
        rlra_jax.wire_direct(maps)


def test_kind_may_be_a_name_or_a_function_of_both_regions():
    maps = [*sized(wide=(8, 8, 3), small=(4, 4, 6))]
    maps[1] = dataclasses.replace(maps[1], inputs=('wide',))

    def kind(source, target):
        return 'channel' if source.name == 'output' else rlra_jax.kind_by_shape(source, target)

    chosen = {
        name: [e.kind for e in rlra_jax.wire_chain(maps, kind=k).edges]
        for name, k in {'name': 'channel', 'shape': 'by_shape', 'pooled': 'pooled', 'function': kind}.items()
    }
    assert chosen == {
        'name': ['channel', 'channel'],
        'shape': ['dense', 'path'],
        'pooled': ['channel', 'path'],
        'function': ['channel', 'path'],
    }


def test_reverse_follows_the_forward_graph():
    graph = [fed('a'), fed('b', 'a'), fed('c', 'a', 'b'), fed('output', 'b', 'c')]
    for kind in ('by_shape', 'dense'):
        wiring = rlra_jax.wire_reverse(graph, kind=kind)
        expected = 'path' if kind == 'by_shape' else kind
        assert [sorted((e.name, e.kind) for e in level) for level in wiring.levels] == [
            [('output->c', expected)],
            [('c->b', expected), ('output->b', expected)],
            [('b->a', expected), ('c->a', expected)],
        ]


def test_the_edges_of_a_path_share_the_synapse_of_their_source_in_its_first_level():
    wiring = rlra_jax.wire_reverse([fed('a'), fed('b', 'a'), fed('c', 'a', 'b'), fed('output', 'b', 'c')])
    assert [{name: [e.target for e in edges] for name, edges in level.items()} for level in wiring.synapses] == [
        {'output->': ['c', 'b']},
        {'c->': ['b', 'a']},
        {'b->': ['a']},
    ]
    straight = rlra_jax.wire_chain(regions('a', 'b'), kind='dense')
    assert [list(level) for level in straight.synapses] == [['output->b'], ['b->a']]


@pytest.mark.parametrize(
    ('edges', 'message'),
    [
        ([Edge('output', 'b'), Edge('output', 'a', 'path')], r"output->a does not: 'output' hears \['b', 'c'\]"),
        (
            [Edge('output', 'c', 'path'), Edge('output', 'b', 'path', 'kp'), Edge('b', 'a')],
            "path from 'output' share a synapse and so a rule; output->b has 'kp', another 'mirror'",
        ),
    ],
)
def test_bad_paths(edges, message):
    graph = [fed('a'), fed('b', 'a'), fed('c', 'a', 'b'), fed('output', 'b', 'c')]
    with pytest.raises(ValueError, match=message):
        rlra_jax.wire(graph, edges)


@pytest.mark.parametrize('wire', [*WIRINGS.values(), functools.partial(rlra_jax.wire_auto, devices=1)])
def test_a_region_that_has_no_part_in_the_output_takes_none_in_a_wiring(wire):
    with pytest.warns(UserWarning, match=r"no error comes to \['b'\]"):
        assert pathways(wire([fed('a'), fed('b', 'a'), fed('output', 'a')])) == [[('output', 'a')]]
    with pytest.warns(UserWarning, match=r"no error comes to \['a'\]"):
        assert pathways(wire([fed('a'), fed('output')])) == []


def test_a_region_that_a_wiring_forgets():
    with pytest.raises(ValueError, match=r"no error edge reaches \['b'\]"):
        rlra_jax.wire([fed('a'), fed('b', 'a'), fed('output', 'a', 'b')], [Edge('output', 'a')])


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


@pytest.mark.parametrize('wire', [*WIRINGS.values(), functools.partial(rlra_jax.wire_auto, devices=2)])
def test_no_regions_at_all(wire):
    with pytest.raises(ValueError, match='this model has no Site'):
        wire([])


def test_wiring_strings_or_shapes():
    with pytest.raises(ValueError, match="joins regions, as `sites` returns them; got 'hidden_1'"):
        rlra_jax.wire_blocks(['hidden_1', 'output'])
