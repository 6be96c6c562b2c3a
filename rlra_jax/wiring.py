"""Error pathways: which region hears from which, and at which recursion level."""

from collections.abc import Iterable, Sequence

from rlra_jax.rules import RULES
from rlra_jax.synapses import SYNAPSES
from rlra_jax.types import Edge, Region, Wiring
from rlra_jax.validate import require


def wire_direct(regions: Sequence[Region], *, kind: str = 'dense', rule: str = 'mirror') -> Wiring:
    """Every region from the output: one recursion level."""
    return wire_blocks(regions, gap=1, kind=kind, rule=rule)


def wire_chain(regions: Sequence[Region], *, kind: str = 'dense', rule: str = 'mirror') -> Wiring:
    """Every region from the one above it: as many levels as hidden regions. The wiring of LRA-E."""
    return wire_blocks(regions, gap=max(len(regions), 1), kind=kind, rule=rule)


def wire_blocks(regions: Sequence[Region], *, gap: int = 2, kind: str = 'dense', rule: str = 'mirror') -> Wiring:
    """Algorithm 1: every gap-th region and the last hidden one from the output, the others from the region above.

    Args:
      regions: what `sites` returned, in forward order, the output last.
      gap: g, at least 1.
      kind: the synapse kind of every edge, a name in `SYNAPSES`.
      rule: the learning rule of every edge, a name in `RULES`.

    Raises:
      ValueError: gap below 1, an unknown kind or rule, or a model without a Site.
    """
    require(isinstance(gap, int) and gap >= 1, 'gap', 'a whole number of at least 1', gap)
    names = [region.name for region in regions]
    hidden = names[:-1]
    edges = []
    for depth, name in enumerate(hidden, start=1):
        source = names[-1] if depth % gap == 0 else names[depth]  # above the last hidden one is the output
        edges.append(Edge(source, name, kind, rule))
    return wire(regions, edges)


def wire(regions: Sequence[Region], edges: Iterable[Edge]) -> Wiring:
    """Any error pathway: sorts the edges into recursion levels, a region's being 1 + the highest among its sources.

    Raises:
      ValueError: naming the region or edge, if a name is unknown, a region has no edge, or the edges form a cycle.
    """
    edges = tuple(edges)
    _check_edges(edges, [region.name for region in regions])
    output = regions[-1].name
    level_of = {output: 0}
    levels: list[tuple[Edge, ...]] = []
    waiting = {edge.target for edge in edges}
    while waiting:
        ready = {t for t in waiting if all(e.source in level_of for e in edges if e.target == t)}
        if not ready:
            raise ValueError(
                f'the error pathway must be acyclic; no order reaches {sorted(waiting)} '
                f'from {output!r} over {[e.name for e in edges if e.target in waiting]}'
            )
        level_of |= dict.fromkeys(ready, len(levels) + 1)
        levels.append(tuple(edge for edge in edges if edge.target in ready))
        waiting -= ready
    return Wiring(output, tuple(levels))


def check_wiring(wiring: Wiring, regions: Sequence[Region]) -> None:
    """Raises ValueError, naming the region, unless the wiring reaches every region, each after all its sources."""
    if wiring.output != regions[-1].name:
        raise ValueError(f'the recursion starts at {wiring.output!r}, but the output is {regions[-1].name!r}')
    expected = wire(regions, wiring.edges)
    level_of = {edge.target: r for r, level in enumerate(expected.levels, start=1) for edge in level}
    for r, level in enumerate(wiring.levels, start=1):
        for edge in level:
            if level_of[edge.target] != r:
                raise ValueError(
                    f'edge {edge.name} is in level {r}, but {edge.target!r} is of level {level_of[edge.target]}, '
                    'one above the highest of its sources'
                )


def _check_edges(edges: Sequence[Edge], names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ValueError('a wiring needs a hidden region; this model has no Site: mark its activations with Site(phi)')
    hidden, output = names[:-1], names[-1]
    seen: set[str] = set()
    for edge in edges:
        for name in (edge.source, edge.target):
            if name not in names:
                raise ValueError(f'edge {edge.name} names an unknown region {name!r}; the model has {list(names)}')
        if edge.target == output:
            raise ValueError(f'edge {edge.name} leads into the output {output!r}, whose target is the label')
        if edge.kind not in SYNAPSES:
            raise ValueError(f'edge {edge.name} has an unknown kind {edge.kind!r}; known: {sorted(SYNAPSES)}')
        if edge.rule not in RULES:
            raise ValueError(f'edge {edge.name} has an unknown rule {edge.rule!r}; known: {sorted(RULES)}')
        if edge.name in seen:
            raise ValueError(f'edge {edge.name} is given twice')
        seen.add(edge.name)
    unreached = [name for name in hidden if name not in {edge.target for edge in edges}]
    if unreached:
        raise ValueError(f'no error edge reaches {unreached}; every region but the output needs one')
