import helpers
import pytest

import rlra_jax
from rlra_jax.types import Edge, Region, Wiring
from rlra_jax.wiring import check_wiring


def regions(*hidden):
    return tuple(Region(name, (1, 2), 'float32') for name in (*hidden, 'output'))


def pathways(wiring):
    return [sorted((e.source, e.target) for e in level) for level in wiring.levels]


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


def test_model_without_sites():
    model = rlra_jax.nn.MLP(widths=())
    with pytest.raises(ValueError, match='this model has no Site'):
        rlra_jax.wire_direct(rlra_jax.sites(model, helpers.make_batch()['image']))
