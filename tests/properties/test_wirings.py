"""Wirings of whatever graph: errors come to every region, each after all that they come from."""

import dataclasses

import hand_made
import helpers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import regions

import rlra_jax
from rlra_jax.experiment.names import KINDS
from rlra_jax.rules.noisy_passes import group, passed_on, stopping
from rlra_jax.wiring.levels import check_wiring, leads_to

WIRINGS = {
    'direct': lambda r, n, **kwargs: rlra_jax.wire_direct(r, **kwargs),
    'chain': lambda r, n, **kwargs: rlra_jax.wire_chain(r, **kwargs),
    'blocks': lambda r, n, **kwargs: rlra_jax.wire_blocks(r, gap=n, **kwargs),
    'modules': lambda r, n, **kwargs: rlra_jax.wire_modules(r, modules_per_block=n, **kwargs),
    'reverse': lambda r, n, **kwargs: rlra_jax.wire_reverse(r, **kwargs),
    'auto': lambda r, n, **kwargs: rlra_jax.wire_auto(r, devices=n, **kwargs),
}
wirings = st.sampled_from(sorted(WIRINGS))
numbers = st.integers(1, 4)
many = settings(max_examples=40)  # nothing compiles


@many
@given(regions(), wirings, numbers, st.sampled_from(['by_shape', 'pooled', 'dense']))
def test_every_region_hears_and_only_of_what_it_feeds(regions, name, number, kind):
    wiring = WIRINGS[name](regions, number, kind=KINDS[kind])
    check_wiring(wiring, regions)
    hidden = [region.name for region in regions[:-1]]
    assert {edge.target for edge in wiring.edges} == set(hidden)
    assert len({edge.name for edge in wiring.edges}) == len(wiring.edges)
    fed, level = leads_to(regions), {'output': 0}
    for r, edges in enumerate(wiring.levels, start=1):
        level |= dict.fromkeys((edge.target for edge in edges), r)
    for target in hidden:
        sources = [edge.source for edge in wiring.edges if edge.target == target]
        assert set(sources) <= fed[target]
        assert level[target] == 1 + max(level[source] for source in sources)


@many
@given(regions(), numbers)
def test_what_each_wiring_promises(regions, number):
    direct = WIRINGS['direct'](regions, number)
    assert hand_made.pathways(direct) == [sorted(('output', region.name) for region in regions[:-1])]
    reverse = WIRINGS['reverse'](regions, number)
    forward = [(region.name, heard) for region in regions for heard in region.inputs]
    assert sorted((edge.source, edge.target) for edge in reverse.edges) == sorted(forward)
    for name in ('chain', 'blocks', 'auto'):
        wiring = WIRINGS[name](regions, number)
        assert len(wiring.edges) == len(regions) - 1
    assert len(wiring.levels) <= 2
    order = [region.name for region in regions]
    for edge in WIRINGS['blocks'](regions, number).edges:
        assert edge.source in ('output', order[order.index(edge.target) + 1])


@many
@given(regions(), wirings, numbers, st.randoms(use_true_random=False))
def test_the_order_in_which_edges_are_given_means_nothing(regions, name, number, random):
    wiring = WIRINGS[name](regions, number, kind=rlra_jax.Dense())
    shuffled = random.sample(wiring.edges, len(wiring.edges))
    assert hand_made.pathways(rlra_jax.wire(regions, shuffled)) == hand_made.pathways(wiring)


@many
@given(regions(), wirings, numbers, st.data())
def test_a_wiring_that_lacks_a_region_or_goes_round_is_refused(regions, name, number, data):
    edges = list(WIRINGS[name](regions, number, kind=rlra_jax.Dense()).edges)
    lost = data.draw(st.sampled_from(edges)).target
    with pytest.raises(ValueError, match=f"no error edge reaches \\['{lost}'\\]"):
        rlra_jax.wire(regions, [edge for edge in edges if edge.target != lost] or [])
    one = data.draw(st.sampled_from(edges))
    looped = [edge for edge in edges if edge.target != one.target]
    looped.append(dataclasses.replace(one, source=one.target))
    with pytest.raises(ValueError, match='must be acyclic'):
        rlra_jax.wire(regions, looped)


@many
@given(regions(), wirings, numbers)
def test_noisy_passes_serve_every_edge_once_and_cut_no_region_off(regions, name, number):
    """Noise of a target must come to all of its sources: no other's source lies where it runs."""
    wiring = WIRINGS[name](regions, number, rule=rlra_jax.Mirror())
    order = [region.name for region in regions]
    passes = group(wiring, order)
    assert sorted(edge.name for edges in passes for edge in edges) == sorted(edge.name for edge in wiring.edges)
    for edges in passes:
        stops = {edge.source for edge in edges}
        for target in {edge.target for edge in edges}:
            own = {edge.source for edge in edges if edge.target == target}
            assert own == {edge.source for edge in wiring.edges if edge.target == target}
            runs = order[order.index(target) + 1 : max(map(order.index, own))]
            assert not (stops - own) & set(runs)


@many
@given(regions(), wirings, numbers)
def test_noise_comes_to_no_source_that_learns_but_those_of_its_target(regions, name, number):
    wiring = WIRINGS[name](regions, number, rule=rlra_jax.Mirror())
    order = [region.name for region in regions]
    for edges in group(wiring, order):
        hands_on = passed_on(edges, order, stopping(wiring, edges))
        for target in {edge.target for edge in edges}:
            noisy, came = {target}, set()
            for region in regions:  # in forward order
                if noisy.intersection(region.inputs or ()):
                    came.add(region.name)
                    noisy |= {region.name} & hands_on
            assert came & {edge.source for edge in edges} <= {edge.source for edge in edges if edge.target == target}


@many
@given(regions(), st.data())
def test_noise_is_handed_on_below_the_highest_source_of_whatever_lies_below(regions, data):
    """Edges in any order, several into a region: those between a target and the highest of its sources, no source."""
    order = [region.name for region in regions]
    fed = leads_to(regions)
    targets = data.draw(st.lists(st.sampled_from(order[:-1]), unique=True, min_size=1, max_size=2))
    above = {target: [name for name in order if name in fed[target]] for target in targets}
    chosen = [
        (source, target)
        for target, names in above.items()
        for source in data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    ]
    edges = [helpers.edge(*pair) for pair in chosen]
    place, sources = {name: i for i, name in enumerate(order)}, {source for source, _ in chosen}
    between = {
        name
        for name in order
        for target in order
        if any(place[target] < place[name] < place[source] for source, to in chosen if to == target)
    }
    assert passed_on(edges, order, sources) == between - sources


@many
@given(regions(), numbers)
def test_overlap_adds_no_more_levels_than_there_are_without(regions, number):
    """Own errors are found at levels of their own; what carries them starts a recursion that is as deep again."""
    plain = rlra_jax.wire_modules(regions, modules_per_block=number)
    wiring = rlra_jax.wire_modules(regions, modules_per_block=number, overlap=1)
    check_wiring(wiring, regions)
    carrying = {edge for edge in wiring.edges if edge.carries is rlra_jax.Carries.OWN}
    forward = {(region.name, heard) for region in regions[:-1] for heard in region.inputs}
    within = {(edge.source, edge.target) for edge in plain.edges}
    assert {(edge.source, edge.target) for edge in carrying} == forward - within
    assert bool(wiring.own) == bool(carrying)
    assert len(wiring.own) in (0, len(plain.levels))
    assert len(wiring.levels) <= 2 * len(plain.levels)
