"""Edges sorted into recursion levels, and whether a wiring fits a model."""

import itertools
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from rlra_jax.edges import Carries, Edge, Kind, Rule, Wiring, called
from rlra_jax.synapses.path import Path
from rlra_jax.types import Region
from rlra_jax.validate import require


def apart(regions: Sequence[Region]) -> tuple[Sequence[Region], Sequence[Region]]:
    """(the hidden regions that have a part in an output, the outputs); raises ValueError if none is hidden.

    Regions that were made by hand may leave it unsaid that the last is the output.

    No error comes to the others, such as those behind a `lax.stop_gradient`: they do not learn.
    """
    require(isinstance(regions, Sequence), 'regions', 'what `regions` returned', type(regions).__name__)
    strange = [region for region in regions if not isinstance(region, Region)]
    if strange:
        raise ValueError(f'a wiring joins regions, as `regions` returns them; got {strange[0]!r}')
    outputs = [region for region in regions if region.output] or list(regions[-1:])
    if len(regions) == len(outputs):
        raise ValueError('a wiring needs a hidden region; this model has no Site: mark its activations with Site(phi)')
    fed, ends = leads_to(regions), {region.name for region in outputs}
    return [region for region in regions if region not in outputs and ends & fed[region.name]], outputs


def settled(wiring: Wiring | Callable[..., Wiring], net: Sequence[Region]) -> Wiring:
    """A wiring, or what a function of the net makes.

    Raises:
      ValueError: it is of another type.
    """
    expected = 'a Wiring, or a function of the net that makes one, such as wire_blocks'
    require(isinstance(wiring, Wiring) or callable(wiring), 'wiring', expected, wiring)
    made = wiring if isinstance(wiring, Wiring) else wiring(net)
    require(isinstance(made, Wiring), 'what the function of the net makes', 'a Wiring', made)
    return made


def wire(regions: Sequence[Region], edges: Iterable[Edge]) -> Wiring:
    """Any error pathway: sorts the edges into recursion levels, a region's being 1 + the highest among its sources.

    Raises:
      ValueError: naming the region or edge: an unknown region, a kind or rule of another type, an edge into the output
        or given twice, a region without an edge, or a cycle; or there is no hidden region.

    Warns:
      UserWarning: regions from which no activity leads to the output, or only through a `lax.stop_gradient`.
    """
    wiring = _wire(regions, edges)
    reached = {*wiring.outputs, *(edge.target for edge in wiring.edges)}
    still = [region.name for region in regions if region.name not in reached]
    if still:
        warnings.warn(
            f'no error comes to {still}, which will not learn: no activity leads from there to the output, or a '
            'lax.stop_gradient lies between',
            stacklevel=2,
        )
    return wiring


def _wire(regions: Sequence[Region], edges: Iterable[Edge]) -> Wiring:
    edges, outputs = tuple(edges), tuple(region.name for region in apart(regions)[1])
    _check_edges(edges, regions, outputs)
    stack = {region.name: region.stack for region in regions}
    own = [edge for edge in edges if edge.carries is not Carries.OWN]
    handed = {edge.target for edge in edges} - {edge.target for edge in own}
    stuck = [edge.name for edge in edges if edge.source in handed]
    if stuck:
        raise ValueError(f'a region that hears own errors alone has none of its own to pass on, as over {stuck}')
    first = _sorted(own, outputs, stack, {}) if len(own) < len(edges) else ()
    level_of = dict.fromkeys(outputs, 0) | {edge.target: r for r, level in enumerate(first, start=1) for edge in level}
    feeds = tuple((name, region.name) for region in regions for name in heard(region))
    return Wiring(outputs, _sorted(edges, outputs, stack, level_of), first, feeds=feeds)


def _sorted(
    edges: Sequence[Edge], outputs: Sequence[str], stack: Mapping[str, str], own_level: Mapping[str, int]
) -> tuple[tuple[Edge, ...], ...]:
    """Edges by level.

    Args:
      edges: of all levels.
      outputs: the regions that no edge leads to.
      stack: region -> the loop that it is in, whose regions all react at once.
      own_level: of the regions' own errors, which edges that carry these wait for.
    """
    group = {name: loop or name for name, loop in stack.items()}
    known = {group[name] for name in outputs}
    levels: list[tuple[Edge, ...]] = []
    waiting: dict[str, list[Edge]] = {}
    for edge in edges:
        sources = waiting.setdefault(group[edge.target], [])
        if not _inside(edge, stack):
            sources.append(edge)
    for passed in itertools.count():
        ready = {
            target
            for target, heard in waiting.items()
            if heard
            and all(_there(e, group[e.source] in known, own_level.get(e.source, passed + 1) <= passed) for e in heard)
        }
        if ready:
            known |= ready
            levels.append(tuple(edge for edge in edges if group[edge.target] in ready))
            for target in ready:
                del waiting[target]
        elif passed >= max(own_level.values(), default=0):
            break
    if waiting:
        raise ValueError(
            f'the error pathway must be acyclic; no order reaches {sorted(waiting)} '
            f'from {_listed(outputs)} over {[e.name for e in edges if group[e.target] in waiting]}'
        )
    return tuple(levels)


def _there(edge: Edge, found: bool, own: bool) -> bool:
    """Whether the error that an edge carries is known; found: whether its source's is; own: whether its own is."""
    return own if edge.carries is Carries.OWN else found


def _inside(edge: Edge, stack: Mapping[str, str]) -> bool:
    """Whether an edge leads along a stack: to the same iteration, or to the one before; stack: of each region."""
    return stack[edge.source] != '' and stack[edge.source] == stack[edge.target]


def _listed(outputs: Sequence[str]) -> str:
    return ', '.join(map(repr, outputs))


def heard(region: Region) -> tuple[str, ...]:
    """The regions that feed it, as far as is known."""
    return region.inputs or ()


def leads_to(regions: Sequence[Region]) -> dict[str, set[str]]:
    """Region -> all those that its activity has a part in, whatever lies between.

    Of regions that do not say what feeds them, because no trace has told: all above, in the order given.
    """
    names = [region.name for region in regions]
    if regions[-1].inputs is None:
        return {name: set(names[i + 1 :]) for i, name in enumerate(names)}
    found: dict[str, set[str]] = {name: set() for name in names}
    rounds = 1 + sum(region.stack != '' for region in regions)  # a way may go round for each region of a loop
    for region in [*reversed(regions)] * rounds:
        for name in heard(region):
            found[name] |= {region.name} | found[region.name]
    return found


def missed(
    region: Region, heard: Sequence[Region], outputs: Sequence[Region], leads: Mapping[str, set[str]]
) -> list[Region]:
    """The outputs that a region leads to and none of those that it hears does; leads: what `leads_to` returned."""
    known = set().union(*(leads[other.name] for other in heard))
    return [output for output in outputs if output.name in leads[region.name] - known]


def check_wiring(wiring: Wiring, regions: Sequence[Region]) -> None:
    """Raises ValueError, naming region or edge, unless the wiring reaches every region, each after all its sources.

    And unless each source of an edge that learns from noise depends on its target.
    """
    require(isinstance(wiring, Wiring), 'wiring', 'a Wiring, such as wire_blocks(net) makes', wiring)
    outputs = [region.name for region in apart(regions)[1]]
    if list(wiring.outputs) != outputs:
        raise ValueError(f'the recursion starts at {_listed(wiring.outputs)}, but the output is {_listed(outputs)}')
    expected = _wire(regions, wiring.edges)
    level_of = expected.level_of
    for r, level in enumerate(wiring.levels, start=1):
        for edge in level:
            if level_of[edge.target] != r:
                raise ValueError(
                    f'edge {edge.name} is in level {r}, but {edge.target!r} is of level {level_of[edge.target]}, '
                    'one above the highest of its sources'
                )
    fed = leads_to(regions)
    for edge in wiring.edges:
        if edge.rule.noisy and edge.source not in fed[edge.target]:
            raise ValueError(
                f'the rule {edge.rule} of edge {edge.name} learns how {edge.source!r} responds to {edge.target!r}; '
                'but no activity leads there'
            )


def _check_edges(edges: Sequence[Edge], regions: Sequence[Region], outputs: Sequence[str]) -> None:
    names = [region.name for region in regions]
    known = set(names)
    seen: set[str] = set()
    rules: dict[str, Rule] = {}
    for edge in edges:
        if not isinstance(edge, Edge):
            raise ValueError(
                f"a wiring is made of Edges, such as Edge('output', 'hidden_1', Dense(), Mirror()); got {edge!r}"
            )
        for name in (edge.source, edge.target):
            if name not in known:
                raise ValueError(f'edge {edge.name} names an unknown region {name!r}; the model has {list(names)}')
        if edge.target in outputs:
            raise ValueError(f'edge {edge.name} leads into the output {edge.target!r}, whose error is of the loss')
        if not isinstance(edge.kind, Kind):
            raise ValueError(f'edge {edge.name} needs a kind such as Path() or Dense(); got {edge.kind!r}')
        if not isinstance(edge.rule, Rule):
            raise ValueError(f'edge {edge.name} needs a rule such as Mirror() or KolenPollack(); got {edge.rule!r}')
        _check_what_it_carries(edge, outputs)
        if edge.name in seen:
            raise ValueError(f'edge {edge.name} is given twice')
        seen.add(edge.name)
        if rules.setdefault(edge.synapse, edge.rule) != edge.rule:
            raise ValueError(
                f'the edges along paths from {edge.source!r} share a synapse and so a rule; '
                f'{edge.name} has {edge.rule}, another {rules[edge.synapse]}'
            )
        if edge.rule.noisy and rules.setdefault('', edge.rule) != edge.rule:
            raise ValueError(
                f'edges that learn from noise share their passes and so a rule; {edge.name} has {edge.rule}, another '
                f'{rules[""]}'
            )
    _check_paths(edges, regions)
    _check_shares(edges, regions)
    _check_stacks(edges, regions)
    reached, fed = {edge.target for edge in edges}, leads_to(regions)
    unreached = [name for name in names if name not in (*reached, *outputs) and not fed[name].isdisjoint(outputs)]
    if unreached:
        raise ValueError(f'no error edge reaches {unreached}; every region that the output hears needs one')


def _check_what_it_carries(edge: Edge, outputs: Sequence[str]) -> None:
    require(isinstance(edge.carries, Carries), f'what edge {edge.name} carries', 'one of Carries', edge.carries)
    if edge.carries is Carries.OWN and (not edge.kind.follows or edge.source in outputs):
        raise ValueError(
            f'own errors are those of hidden regions and go along paths; edge {edge.name} is of {called(edge.kind)}'
        )
    if edge.carries is Carries.REST and (edge.kind.follows or edge.source not in outputs):
        raise ValueError(
            f'the rest comes from an output, over a straight kind; edge {edge.name} is of {called(edge.kind)}'
        )
    if edge.carries is not Carries.ERROR and edge.rule.sums and not edge.rule.noisy:
        raise ValueError(
            f'where regions have errors of their own, synapses learn by Mirror, KolenPollack or Fixed; '
            f'edge {edge.name} has {edge.rule}'
        )


def _check_paths(edges: Sequence[Edge], regions: Sequence[Region]) -> None:
    by_name = {region.name: region for region in regions}
    if regions[-1].inputs is None:
        return
    for edge in edges:
        source = by_name[edge.source]
        if edge.kind.follows and edge.target not in heard(source):
            raise ValueError(
                f'an edge along a path leads to a region that feeds its source; {edge.name} does not: '
                f'{edge.source!r} hears {list(heard(source))}'
            )


def _check_shares(edges: Sequence[Edge], regions: Sequence[Region]) -> None:
    shape = {region.name: region.shape[1:] for region in regions}
    first: dict[Hashable, Edge] = {}
    for edge in (edge for edge in edges if edge.share is not None):
        other = first.setdefault(edge.share, edge)
        alike = [(own.kind, own.rule, shape[own.source], shape[own.target]) for own in (edge, other)]
        if alike[0] != alike[1]:
            raise ValueError(
                f'edges that share one E are alike in kind, rule and shapes; {edge.name} has {alike[0]}, '
                f'{other.name} {alike[1]}'
            )


def _check_stacks(edges: Sequence[Edge], regions: Sequence[Region]) -> None:
    stack = {region.name: region.stack for region in regions}
    straight = [edge.name for edge in edges if stack[edge.source] and not edge.kind.follows]
    if straight:
        raise ValueError(
            f'errors leave the regions of a loop over edges of the kind Path(), to regions that feed them; {straight} '
            'are of others'
        )
    partly = [e.name for e in edges if isinstance(e.kind, Path) and e.kind.sends < 1 and stack[e.source]]
    if partly:
        raise ValueError(f'errors of a loop that JAX traces once send all channels; {partly} send a part (sends)')
    ways = {(region.name, name) for region in regions for name in heard(region) if stack[region.name]}
    own = {(edge.source, edge.target) for edge in edges}
    for loop in dict.fromkeys(filter(None, stack.values())):
        along = {way for way in ways if stack[way[0]] == stack[way[1]] == loop}
        if not along.isdisjoint(own) and not along <= own:
            raise ValueError(
                f'errors travel along a loop over all of its ways, as wire_reverse lets them, or over none, as '
                f'wire_direct does; in that of {loop!r} edges are missing from {sorted(along - own)}'
            )
        carried = {edge.carries for edge in edges if (edge.source, edge.target) in along}
        if len(carried) > 1:
            raise ValueError(
                f'the edges along a loop carry one kind of error; those in {loop!r} carry '
                f'{sorted(own.value for own in carried)}'
            )
