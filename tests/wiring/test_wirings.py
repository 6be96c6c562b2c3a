import dataclasses
import functools

import helpers
import jax
import pytest
from hand_made import fed, pathways, regions, sized

import rlra_jax
from rlra_jax.edges import Wiring
from rlra_jax.experiment.names import WIRINGS
from rlra_jax.wiring.choose import kind_straight
from rlra_jax.wiring.levels import check_wiring


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
    edges = [helpers.edge('output', t) for t in '258'] + [helpers.edge(s, t) for s, t in ('21', '54', '53', '87', '86')]
    wiring = rlra_jax.wire(regions(*'12345678'), edges)
    assert [len(level) for level in wiring.levels] == [3, 5]


def test_level_is_one_above_the_highest_source():
    edges = [helpers.edge('output', 'c'), helpers.edge('c', 'b'), helpers.edge('b', 'a'), helpers.edge('output', 'a')]
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
    assert {e.name: e.kind for e in wiring.edges if e.kind != rlra_jax.Path()} == {f'output->{out}': rlra_jax.Dense()}
    stages = rlra_jax.wire_modules(graph, block=lambda name: name.partition('/')[0])
    assert pathways(stages)[0] == sorted([('output', stem), ('output', other)])
    assert pathways(stages)[1:] == [[(other, out)], [(out, middle)], [(middle, inner)]]
    pairs = rlra_jax.wire_modules(graph, modules_per_block=2)
    assert pathways(pairs) == [[('output', other)], *pathways(rlra_jax.wire_reverse(graph))[1:]]


def test_modules_leave_what_a_kind_sends_unless_told():
    graph = [fed('a/one'), fed('a/two', 'a/one'), fed('output', 'a/two')]
    for sends, found in ((None, 0.5), (0.25, 0.25)):
        wiring = rlra_jax.wire_modules(graph, kind=rlra_jax.Path(0.5), sends=sends)
        assert {edge.name: edge.kind.sends for edge in wiring.edges} == {'output->a/two': 0.5, 'a/two->a/one': found}


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
        ('output', 'units'): rlra_jax.Dense(),
        ('output', 'wide'): rlra_jax.Dense(),
        ('small', 'units'): rlra_jax.Dense(),
        ('small', 'wide'): rlra_jax.Dense(),
        ('same', 'wide'): rlra_jax.Dense(),
        ('more', 'tokens'): rlra_jax.Dense(),
        ('output', 'huge'): rlra_jax.Grid(),
        ('output', 'many'): rlra_jax.Dense(),
    }
    for choose in (rlra_jax.kind_by_shape, kind_straight):
        assert {ends: choose(*(by_name[end] for end in ends)) for ends in expected} == expected
    pooled = {ends: rlra_jax.kind_pooled(*(by_name[end] for end in ends)) for ends in expected}
    assert pooled == {**expected, ('output', 'wide'): rlra_jax.Channel(), ('output', 'huge'): rlra_jax.Channel()}
    tokens = {ends: rlra_jax.kind_tokens(*(by_name[end] for end in ends)) for ends in expected}
    assert tokens == {**expected, ('same', 'wide'): rlra_jax.Token(), ('more', 'tokens'): rlra_jax.Token()}


@pytest.mark.parametrize(
    ('choose', 'kind'),
    [
        (rlra_jax.kind_by_shape, rlra_jax.Path()),
        (rlra_jax.kind_pooled, rlra_jax.Path()),
        (rlra_jax.kind_tokens, rlra_jax.Path()),
        (kind_straight, rlra_jax.Dense()),
    ],
)
def test_neighbours_are_joined_by_their_path(choose, kind):
    wiring = rlra_jax.wire_blocks([fed('a'), fed('b', 'a'), fed('c', 'b'), fed('output', 'c')], gap=2, kind=choose)
    assert {e.name: e.kind for e in wiring.edges} == {'output->b': rlra_jax.Dense(), 'output->c': kind, 'b->a': kind}


@pytest.mark.parametrize(('size', 'kind'), [((64, 64, 70_000), 'Grid'), ((40_000_001,), 'Dense')])
def test_a_synapse_too_large_names_the_choices(size, kind):
    maps = sized(huge=(64, 64, 128) if kind == 'Grid' else (20,), vast=size)
    if kind == 'Grid':
        maps = [*maps[:-1], dataclasses.replace(maps[-1], shape=(1, 1000))]
    with pytest.raises(ValueError, match=rf"a {kind}.* synapse from 'output' .* to 'vast' .* too large; .*kind_pooled"):
        rlra_jax.wire_direct(maps)


def test_kind_may_be_an_object_or_a_function_of_both_regions():
    maps = [*sized(wide=(8, 8, 3), small=(4, 4, 6))]
    maps[1] = dataclasses.replace(maps[1], inputs=('wide',))

    def kind(source, target):
        return rlra_jax.Channel() if source.name == 'output' else rlra_jax.kind_by_shape(source, target)

    chosen = {
        name: [e.kind for e in rlra_jax.wire_chain(maps, kind=k).edges]
        for name, k in {
            'object': rlra_jax.Channel(),
            'shape': rlra_jax.kind_by_shape,
            'pooled': rlra_jax.kind_pooled,
            'function': kind,
        }.items()
    }
    assert chosen == {
        'object': [rlra_jax.Channel(), rlra_jax.Channel()],
        'shape': [rlra_jax.Dense(), rlra_jax.Path()],
        'pooled': [rlra_jax.Channel(), rlra_jax.Path()],
        'function': [rlra_jax.Channel(), rlra_jax.Path()],
    }


def test_reverse_follows_the_forward_graph():
    graph = [fed('a'), fed('b', 'a'), fed('c', 'a', 'b'), fed('output', 'b', 'c')]
    for kind in (rlra_jax.kind_by_shape, rlra_jax.Dense()):
        wiring = rlra_jax.wire_reverse(graph, kind=kind)
        expected = rlra_jax.Path() if kind == rlra_jax.kind_by_shape else kind
        assert [[(e.name, e.kind) for e in sorted(level, key=lambda e: e.name[::-1])] for level in wiring.levels] == [
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
    straight = rlra_jax.wire_chain(regions('a', 'b'), kind=rlra_jax.Dense())
    assert [list(level) for level in straight.synapses] == [['output->b'], ['b->a']]


@pytest.mark.parametrize(
    ('edges', 'message'),
    [
        (
            [helpers.edge('output', 'b'), helpers.edge('output', 'a', 'path')],
            r"output->a does not: 'output' hears \['b', 'c'\]",
        ),
        (
            [helpers.edge('output', 'c', 'path'), helpers.edge('output', 'b', 'path', 'kp'), helpers.edge('b', 'a')],
            r"paths from 'output' share a synapse and so a rule; output->b has KolenPollack\(.*\), another Mirror\(",
        ),
    ],
)
def test_bad_paths(edges, message):
    graph = [fed('a'), fed('b', 'a'), fed('c', 'a', 'b'), fed('output', 'b', 'c')]
    with pytest.raises(ValueError, match=message):
        rlra_jax.wire(graph, edges)


# Of any regions. wire_time wants calls of Sites, wire_edges names.
ANY = [WIRINGS[name] for name in ('blocks', 'chain', 'direct', 'modules', 'reverse')]


@pytest.mark.parametrize('wire', [*ANY, functools.partial(rlra_jax.wire_auto, devices=1)])
def test_a_region_that_has_no_part_in_the_output_takes_none_in_a_wiring(wire):
    with pytest.warns(UserWarning, match=r"no error comes to \['b'\]"):
        assert pathways(wire([fed('a'), fed('b', 'a'), fed('output', 'a')])) == [[('output', 'a')]]
    with pytest.warns(UserWarning, match=r"no error comes to \['a'\]"):
        assert pathways(wire([fed('a'), fed('output')])) == []


def test_a_region_that_a_wiring_forgets():
    with pytest.raises(ValueError, match=r"no error edge reaches \['b'\]"):
        rlra_jax.wire([fed('a'), fed('b', 'a'), fed('output', 'a', 'b')], [helpers.edge('output', 'a')])


def test_wirings_are_static_arguments():
    one, other = (rlra_jax.wire_blocks(regions('a', 'b')) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ('edges', 'message'),
    [
        ([helpers.edge('output', 'a'), helpers.edge('output', 'x')], "unknown region 'x'"),
        ([helpers.edge('output', 'a'), helpers.edge('y', 'b')], "unknown region 'y'"),
        ([helpers.edge('output', 'a')], r"no error edge reaches \['b'\]"),
        ([helpers.edge('a', 'b'), helpers.edge('b', 'a')], r"acyclic; no order reaches \['a', 'b'\]"),
        ([helpers.edge('output', 'b'), helpers.edge('a', 'a')], r"acyclic; no order reaches \['a'\]"),
        (
            [
                helpers.edge('output', 'b'),
                dataclasses.replace(helpers.edge('b', 'a', 'path', 'kp'), carries=rlra_jax.Carries.OWN),
                helpers.edge('a', 'b', 'path', 'kp'),
            ],
            r"hears own errors alone has none of its own to pass on, as over \['a->b'\]",
        ),
        (
            [
                dataclasses.replace(helpers.edge('output', name, rule=rule), share=0)
                for name, rule in (('a', 'kp'), ('b', 'fixed'))
            ],
            'share one E are alike in kind, rule and shapes; output->b',
        ),
        (
            [helpers.edge('output', 'a'), helpers.edge('output', 'b'), helpers.edge('a', 'output')],
            "into the output 'output'",
        ),
        (
            [helpers.edge('output', 'a'), helpers.edge('output', 'b', kind='sparse')],
            "output->b needs a kind such as .*; got 'sparse'",
        ),
        (
            [helpers.edge('output', 'a'), rlra_jax.Edge('output', 'b', rlra_jax.Dense(), 'oja')],
            "needs a rule such as .*; got 'oja'",
        ),
        ([helpers.edge('output', 'a'), helpers.edge('output', 'b'), helpers.edge('output', 'b')], 'given twice'),
        (
            [
                helpers.edge('output', 'a'),
                helpers.edge('output', 'b', 'path', 'kp'),
                rlra_jax.Edge('output', 'b', rlra_jax.Path(), rlra_jax.KolenPollack(), carries=rlra_jax.Carries.REST),
            ],
            'the rest comes from an output, over a straight kind',
        ),
    ],
)
def test_bad_edges(edges, message):
    with pytest.raises(ValueError, match=message):
        rlra_jax.wire(regions('a', 'b'), edges)


def test_levels_out_of_order():
    wiring = Wiring(('output',), ((helpers.edge('b', 'a'),), (helpers.edge('output', 'b'),)))
    with pytest.raises(ValueError, match="edge b->a is in level 1, but 'a' is of level 2"):
        check_wiring(wiring, regions('a', 'b'))


def test_wrong_output():
    with pytest.raises(ValueError, match="starts at 'b', but the output is 'output'"):
        check_wiring(Wiring(('b',), ((helpers.edge('b', 'a'),),)), regions('a', 'b'))


@pytest.mark.parametrize('gap', [0, -1])
def test_bad_gap(gap):
    with pytest.raises(ValueError, match=f'at least 1; got {gap}'):
        rlra_jax.wire_blocks(regions('a'), gap=gap)


def test_bad_modules_per_block():
    with pytest.raises(ValueError, match=r'modules_per_block must be .*at least 1; got 0'):
        rlra_jax.wire_modules(regions('a'), modules_per_block=0)


def test_blocks_end_with_the_regions_that_are_named():
    chain = [fed('a'), fed('b', 'a'), fed('c', 'b'), fed('d', 'c'), fed('output', 'd')]
    named, told = (rlra_jax.wire_modules(chain, block=block) for block in (('a', 'c'), {'a': 0, 'd': 2}.get))
    assert named == told
    assert pathways(named) == [[('output', 'a'), ('output', 'c'), ('output', 'd')], [('c', 'b')]]


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        ('a', "a function of a region's name .*, or the names of regions .*; got 'a'"),
        (['b', 'output'], r"names of hidden regions, \['a', 'b'\]; got \['output'\]"),
    ],
)
def test_regions_that_end_no_block(block, message):
    with pytest.raises(ValueError, match=message):
        rlra_jax.wire_modules(regions('a', 'b'), block=block)


def test_blocks_that_cannot_be_told_apart():
    with pytest.raises(ValueError, match=r"block\(name\) must be hashable, as a string is; got \[\['a'\]\]"):
        rlra_jax.wire_modules(regions('a'), block=lambda name: [name])


@pytest.mark.parametrize('wire', [*ANY, functools.partial(rlra_jax.wire_auto, devices=2)])
def test_no_regions_at_all(wire):
    with pytest.raises(ValueError, match='this model has no Site'):
        wire([])


def test_wiring_strings_or_shapes():
    with pytest.raises(ValueError, match="joins regions, as `regions` returns them; got 'hidden_1'"):
        rlra_jax.wire_blocks(['hidden_1', 'output'])


def test_edges_share_one_synapse_by_any_name_but_none():
    net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(5, 5), classes=4), helpers.make_batch())
    edges = [dataclasses.replace(helpers.edge('output', name, rule='kp'), share=0) for name in ('hidden_1', 'hidden_2')]
    weights, _ = rlra_jax.update_fn(net, rlra_jax.wire(net, edges)).init(jax.random.key(0))
    first, second = weights['synapses'][0].values()
    assert (first == second).all()
