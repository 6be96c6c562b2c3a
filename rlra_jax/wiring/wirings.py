"""Error pathways: which region hears from which, over what kind of synapse, and at which recursion level."""

import itertools
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence

from rlra_jax.rules.local import RULES
from rlra_jax.synapses.straight import SYNAPSES, count
from rlra_jax.types import Edge, Region, Wiring
from rlra_jax.validate import require_count

KINDS = ('path', *SYNAPSES)
_LARGE, _LARGEST = 4_000_000, 400_000_000  # parameters of a synapse

# The kind of every edge, a name in KINDS; or 'by_shape' or 'pooled'; or (source, target) -> the name of a kind.
Kind = str | Callable[[Region, Region], str]


def wire_direct(regions: Sequence[Region], *, kind: Kind = 'by_shape', rule: str = 'mirror') -> Wiring:
    """Every region from the output: one recursion level."""
    return wire_blocks(regions, gap=1, kind=kind, rule=rule)


def wire_chain(regions: Sequence[Region], *, kind: Kind = 'by_shape', rule: str = 'mirror') -> Wiring:
    """Every region from the one above it: as many levels as hidden regions. The wiring of LRA-E."""
    return wire_blocks(regions, gap=max(len(regions), 1), kind=kind, rule=rule)


def wire_blocks(regions: Sequence[Region], *, gap: int = 2, kind: Kind = 'by_shape', rule: str = 'mirror') -> Wiring:
    """Algorithm 1: every gap-th region and the last hidden one from the output, the others from the region above.

    A region that does not feed the one above, as in a branch beside it, hears the output.

    Args:
      regions: what `sites` returned, in forward order, the output last.
      gap: g, at least 1.
      kind: of every edge: 'path', a name in `SYNAPSES`, 'by_shape' or 'pooled' (see `kind_by_shape` and
        `kind_pooled`), or a function of source and target.
      rule: the learning rule of every edge, a name in `RULES`.

    Raises:
      ValueError: gap below 1, an unknown kind or rule, or a model without a Site.
    """
    require_count('gap', gap)
    hidden, output = apart(regions)
    pairs = (itertools.pairwise((*hidden[i : i + gap], output)) for i in range(0, len(hidden), gap))
    fed = leads_to(regions)
    return wire(
        regions,
        [
            make_edge(above if above.name in fed[below.name] else output, below, kind, rule)
            for below, above in itertools.chain(*pairs)
        ],
    )


def wire_modules(
    regions: Sequence[Region],
    *,
    block: Callable[[str], Hashable] | None = None,
    modules_per_block: int = 1,
    kind: Kind = 'by_shape',
    rule: str = 'mirror',
) -> Wiring:
    """The paper's scheme for residual networks: blocks' outputs from the output, then recursion into each block.

    Inside a block errors follow the forward graph back, as in `wire_reverse`; a region that feeds no other of its block
    hears the output. Where a block holds a skip and what it skips, as the first with its stem does, `normalise=True` is
    wanted, as in `wire_reverse`.

    Args:
      regions: what `sites` returned, which knows what feeds each.
      block: region's name -> its block. If None, the module that holds the Site, so that 'block_2/act_1' belongs to
        'block_2'; a Site that no module holds belongs to the block above it, as a stem does, and is a block of its own
        where no module holds the next one either.
      modules_per_block: so many of these, counted from the output, make one block; the lowest has what remains. Fewer
        blocks hear the output from nearer by and wait longer for the recursion inside.
      kind: as in `wire_blocks`.
      rule: as in `wire_blocks`.

    Raises:
      ValueError: modules_per_block below 1, an unknown kind or rule, or a model without a Site.
    """
    require_count('modules_per_block', modules_per_block)
    hidden, output = apart(regions)
    names = [region.name for region in hidden]
    modules = _modules(names) if block is None else list(map(block, names))
    from_output = {module: i for i, module in enumerate(dict.fromkeys(reversed(modules)))}
    blocks = {name: from_output[module] // modules_per_block for name, module in zip(names, modules, strict=True)}
    inside = [edge for edge in _reverse(hidden, kind, rule) if blocks[edge.source] == blocks[edge.target]]
    fed = {edge.target for edge in inside}
    outside = [make_edge(output, region, kind, rule) for region in hidden if region.name not in fed]
    return wire(regions, outside + inside)


def _modules(names: Sequence[str]) -> list[str]:
    held = [name.rpartition('/')[0] for name in names]
    return [own or above or name for name, (own, above) in zip(names, itertools.pairwise([*held, '']), strict=True)]


def wire_reverse(regions: Sequence[Region], *, kind: Kind = 'by_shape', rule: str = 'mirror') -> Wiring:
    """The forward graph backwards: every region from those that its activity feeds, skips included.

    Errors of many levels want `normalise=True`: without it they fade by beta at each, and those that skip a level
    outweigh those that do not.

    Args:
      regions: what `sites` returned, which knows what feeds each.
      kind: of the other edges, as in `wire_blocks`.
      rule: as in `wire_blocks`.

    Raises:
      ValueError: an unknown kind or rule, or a model without a Site.
    """
    hidden, output = apart(regions)
    return wire(regions, _reverse([*hidden, output], kind, rule))


def _reverse(regions: Sequence[Region], kind: Kind, rule: str) -> list[Edge]:
    """An edge from each region to each that feeds it."""
    by_name = {region.name: region for region in regions}
    pairs = [(source, by_name[name]) for source in reversed(regions) for name in heard(source) if name in by_name]
    return [make_edge(source, target, kind, rule) for source, target in pairs]


def kind_by_shape(source: Region, target: Region) -> str:
    """The kind that fits two regions: 'path' to one that feeds the source, else a straight one.

    An edge from afar is a linear map: 'dense', but 'grid' where a dense synapse into a map would have more than 4
    million parameters. For others: kind=lambda source, target: ...

    Raises:
      ValueError: either would have more than 400 million.
    """
    return 'path' if target.name in heard(source) else kind_straight(source, target)


def kind_straight(source: Region, target: Region) -> str:
    """As `kind_by_shape`, but straight even between neighbours."""
    size = count('dense', source.shape, target.shape)
    kind = 'grid' if target.shape[1:-1] and size > _LARGE else 'dense'
    if count(kind, source.shape, target.shape) > _LARGEST:
        raise ValueError(
            f'a {kind!r} synapse from {source.name!r} {source.shape} to {target.name!r} {target.shape} would be too '
            "large; take kind='pooled', a function of source and target that says 'channel' here, or a wiring whose "
            "edges lead from neighbour to neighbour, such as 'reverse'"
        )
    return kind


def kind_pooled(source: Region, target: Region) -> str:
    """As `kind_by_shape`, but 'channel' from units into maps: of models that average their last map over its positions.

    To such a model all positions of the last map are alike, and so, but for borders and strides, are those of the maps
    below. What a dense synapse could tell beyond that is little, and takes it thousands of noisy passes to learn.
    """
    afar = target.name not in heard(source)
    return 'channel' if afar and not source.shape[1:-1] and target.shape[1:-1] else kind_by_shape(source, target)


def apart(regions: Sequence[Region]) -> tuple[Sequence[Region], Region]:
    """(the hidden regions that have a part in the output, the output); raises ValueError if there are none at all.

    No error comes to the others, such as those behind a `lax.stop_gradient`: they do not learn.
    """
    strange = [region for region in regions if not isinstance(region, Region)]
    if strange:
        raise ValueError(f'a wiring joins regions, as `sites` returns them; got {strange[0]!r}')
    if len(regions) < 2:
        raise ValueError('a wiring needs a hidden region; this model has no Site: mark its activations with Site(phi)')
    output, fed = regions[-1], leads_to(regions)
    return [region for region in regions[:-1] if output.name in fed[region.name]], output


def make_edge(source: Region, target: Region, kind: Kind, rule: str) -> Edge:
    """An edge whose kind is a name, 'by_shape', 'pooled' or a function of both regions."""
    choose = {'by_shape': kind_by_shape, 'pooled': kind_pooled}.get(kind, kind) if isinstance(kind, str) else kind
    return Edge(source.name, target.name, choose(source, target) if callable(choose) else choose, rule)


def wire(regions: Sequence[Region], edges: Iterable[Edge]) -> Wiring:
    """Any error pathway: sorts the edges into recursion levels, a region's being 1 + the highest among its sources.

    Raises:
      ValueError: naming the region or edge: an unknown region, kind or rule, an edge into the output or given twice, a
        region without an edge, or a cycle; or there is no hidden region.

    Warns:
      UserWarning: regions from which no activity leads to the output, or only through a `lax.stop_gradient`.
    """
    wiring = _wire(regions, edges)
    targets = {edge.target for edge in wiring.edges}
    still = [region.name for region in regions[:-1] if region.name not in targets]
    if still:
        warnings.warn(
            f'no error comes to {still}, which will not learn: no activity leads from there to the output, or a '
            'lax.stop_gradient lies between',
            stacklevel=2,
        )
    return wiring


def _wire(regions: Sequence[Region], edges: Iterable[Edge]) -> Wiring:
    edges, output = tuple(edges), apart(regions)[1].name
    _check_edges(edges, regions)
    level_of = {output: 0}
    levels: list[tuple[Edge, ...]] = []
    waiting: dict[str, set[str]] = {}
    for edge in edges:
        waiting.setdefault(edge.target, set()).add(edge.source)
    while waiting:
        ready = {target for target, sources in waiting.items() if sources <= level_of.keys()}
        if not ready:
            raise ValueError(
                f'the error pathway must be acyclic; no order reaches {sorted(waiting)} '
                f'from {output!r} over {[e.name for e in edges if e.target in waiting]}'
            )
        level_of |= dict.fromkeys(ready, len(levels) + 1)
        levels.append(tuple(edge for edge in edges if edge.target in ready))
        for target in ready:
            del waiting[target]
    return Wiring(output, tuple(levels))


def heard(region: Region) -> tuple[str, ...]:
    """The regions that feed it, as far as is known."""
    return region.inputs or ()


def leads_to(regions: Sequence[Region]) -> dict[str, set[str]]:
    """Region -> all those that its activity has a part in, whatever lies between.

    Of regions that do not say what feeds them, because `sites` did not make them: all above, in the order given.
    """
    names = [region.name for region in regions]
    if regions[-1].inputs is None:
        return {name: set(names[i + 1 :]) for i, name in enumerate(names)}
    found: dict[str, set[str]] = {name: set() for name in names}
    for region in reversed(regions):
        for name in heard(region):
            found[name] |= {region.name} | found[region.name]
    return found


def check_wiring(wiring: Wiring, regions: Sequence[Region]) -> None:
    """Raises ValueError, naming region or edge, unless the wiring reaches every region, each after all its sources.

    And unless each source of an edge with the rule `mirror` depends on its target.
    """
    if wiring.output != regions[-1].name:
        raise ValueError(f'the recursion starts at {wiring.output!r}, but the output is {regions[-1].name!r}')
    expected = _wire(regions, wiring.edges)
    level_of = {edge.target: r for r, level in enumerate(expected.levels, start=1) for edge in level}
    for r, level in enumerate(wiring.levels, start=1):
        for edge in level:
            if level_of[edge.target] != r:
                raise ValueError(
                    f'edge {edge.name} is in level {r}, but {edge.target!r} is of level {level_of[edge.target]}, '
                    'one above the highest of its sources'
                )
    fed = leads_to(regions)
    for edge in wiring.edges:
        if edge.rule == 'mirror' and edge.source not in fed[edge.target]:
            raise ValueError(
                f"the rule 'mirror' of edge {edge.name} learns how {edge.source!r} responds to {edge.target!r}; "
                'but no activity leads there'
            )


def _check_edges(edges: Sequence[Edge], regions: Sequence[Region]) -> None:
    names = [region.name for region in regions]
    hidden, output, known = names[:-1], names[-1], set(names)
    seen: set[str] = set()
    rules: dict[str, str] = {}
    for edge in edges:
        if not isinstance(edge, Edge):
            raise ValueError(f'a wiring is made of Edges, as `make_edge` makes them; got {edge!r}')
        for name in (edge.source, edge.target):
            if name not in known:
                raise ValueError(f'edge {edge.name} names an unknown region {name!r}; the model has {list(names)}')
        if edge.target == output:
            raise ValueError(f'edge {edge.name} leads into the output {output!r}, whose target is the label')
        if not isinstance(edge.kind, str) or edge.kind not in KINDS:
            raise ValueError(f'edge {edge.name} has an unknown kind {edge.kind!r}; known: {sorted(KINDS)}')
        if not isinstance(edge.rule, str) or edge.rule not in RULES:
            raise ValueError(f'edge {edge.name} has an unknown rule {edge.rule!r}; known: {sorted(RULES)}')
        if edge.name in seen:
            raise ValueError(f'edge {edge.name} is given twice')
        seen.add(edge.name)
        if rules.setdefault(edge.synapse, edge.rule) != edge.rule:
            raise ValueError(
                f'the edges of the kind path from {edge.source!r} share a synapse and so a rule; '
                f'{edge.name} has {edge.rule!r}, another {rules[edge.synapse]!r}'
            )
    _check_paths(edges, regions)
    reached, fed = {edge.target for edge in edges}, leads_to(regions)
    unreached = [name for name in hidden if name not in reached and output in fed[name]]
    if unreached:
        raise ValueError(f'no error edge reaches {unreached}; every region that the output hears needs one')


def _check_paths(edges: Sequence[Edge], regions: Sequence[Region]) -> None:
    by_name = {region.name: region for region in regions}
    if regions[-1].inputs is None:
        return
    for edge in edges:
        source = by_name[edge.source]
        if edge.kind == 'path' and edge.target not in heard(source):
            raise ValueError(
                f'an edge of the kind path leads to a region that feeds its source; {edge.name} does not: '
                f'{edge.source!r} hears {list(heard(source))}'
            )
