"""Error pathways: which region hears from which, over what kind of synapse, and at which recursion level."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Collection, Hashable, Sequence

from rlra_jax.edges import Carries, Edge, Rule, Wiring
from rlra_jax.paths import split_call
from rlra_jax.rules import Mirror
from rlra_jax.synapses import Path
from rlra_jax.types import Region
from rlra_jax.validate import require, require_count
from rlra_jax.wiring.choose import Choice, kind_by_shape, make_edge, make_edge_afar
from rlra_jax.wiring.levels import apart, heard, leads_to, missed, wire

_MIRROR = Mirror()


def wire_direct(regions: Sequence[Region], *, kind: Choice = kind_by_shape, rule: Rule = _MIRROR) -> Wiring:
    """Every region from the output: one recursion level."""
    return wire_blocks(regions, gap=1, kind=kind, rule=rule)


def wire_chain(regions: Sequence[Region], *, kind: Choice = kind_by_shape, rule: Rule = _MIRROR) -> Wiring:
    """Every region from the one above it: as many levels as hidden regions. The wiring of LRA-E."""
    return wire_blocks(regions, gap=sys.maxsize, kind=kind, rule=rule)


def wire_blocks(
    regions: Sequence[Region], *, gap: int = 2, kind: Choice = kind_by_shape, rule: Rule = _MIRROR
) -> Wiring:
    """Algorithm 1: every gap-th region and the last hidden one from the output, the others from the region above.

    A region that does not feed the one above, as in a branch beside it, hears the output. Of several outputs, a region
    hears those that it feeds: itself, where the region above does not. All iterations of a loop are one region: as a
    gap-th one each hears the output, else the next iteration, too.

    Args:
      regions: what `regions` returned, or Regions in forward order, the output last.
      gap: g, at least 1.
      kind: of every edge, such as `Path()` or `Dense()`, or a function of source and target that chooses one, such as
        `kind_by_shape` or `kind_pooled`.
      rule: of every edge, such as `Mirror()` or `KolenPollack()`.

    Raises:
      ValueError: gap below 1, a kind or rule of another type, or a model without a Site.
    """
    require_count('gap', gap)
    hidden, outputs = apart(regions)
    fed = leads_to(regions)
    edges: list[Edge] = []
    for i, region in enumerate(hidden):
        inside = hidden[i + 1 : i + 2] if (i + 1) % gap else []  # the region above, of the same block
        above = [source for source in inside if source.name in fed[region.name]]
        sources = [*above, *missed(region, above, outputs, fed)]
        if (i + 1) % gap and region.name in heard(region):  # along a loop
            edges += [make_edge(source, region, kind, rule) for source in (region, *sources)]
        else:
            edges += [make_edge_afar(source, region, kind, rule) for source in sources]
    return wire(regions, edges)


def wire_modules(
    regions: Sequence[Region],
    *,
    block: Callable[[str], Hashable] | Collection[str] | None = None,
    modules_per_block: int = 1,
    overlap: int = 0,
    kind: Choice = kind_by_shape,
    rule: Rule = _MIRROR,
    rest: Rule | None = None,
    sends: float | None = None,
) -> Wiring:
    """The paper's scheme for residual networks: blocks' outputs from the output, then recursion into each block.

    Inside a block errors follow the forward graph back, as in `wire_reverse`; a region that feeds no other of its block
    hears the output, and so does each that the output reads. All iterations of a loop are one block, in which each
    hears the output and the iteration that it feeds. Where a block holds a skip and what it skips, as the first with
    its stem does, `normalise=True` is wanted, as in `wire_reverse`.

    Args:
      regions: what `regions` returned, which knows what feeds each.
      block: region's name -> its block; or the names of the regions that are the last of theirs, in forward order. If
        None, the module that holds the Site, so that 'block_2/act_1' belongs to 'block_2'; a Site that no module holds
        belongs to the block above it, as a stem does, and is a block of its own where no module holds the next one
        either. Each call of a module is a block.
      modules_per_block: so many of these, counted from the output, make one block; the lowest has what remains. Fewer
        blocks hear the output from nearer by and wait longer for the recursion inside.
      overlap: 1: each block also hands its own errors to the regions of the block below that feed it; they go no
        further (`Carries.OWN`). In the full error of such a region they replace what comes from the output afar, and
        add to what comes from an output that reads it. 0: errors stay in their block.
      kind: as in `wire_blocks`.
      rule: of every edge but those that `rest` is of.
      rest: of the edges from the output afar to ends of blocks. With it, an end that the output reads has one, too, for
        what passes through the blocks above, unless its block has its full errors from the one above and hands its own
        to none, as the lowest with `overlap`. If None, these edges have `rule`, and an end that the output reads has
        none.
      sends: of paths between hidden regions: see `Path`. None: what their kind says.

    Raises:
      ValueError: modules_per_block below 1, overlap neither 0 nor 1, sends not above 0 and at most 1, a block, kind or
        rule of another type, a block that ends with no hidden region, or a model without a Site.
    """
    require_count('modules_per_block', modules_per_block)
    require(overlap in (0, 1), 'overlap', '0 or 1', overlap)
    hidden, outputs = apart(regions)
    names = [region.name for region in hidden]
    modules = _modules(names, block)
    require(all(isinstance(module, Hashable) for module in modules), 'block(name)', 'hashable, as a string is', modules)
    from_output = {module: i for i, module in enumerate(dict.fromkeys(reversed(modules)))}
    blocks = {name: from_output[module] // modules_per_block for name, module in zip(names, modules, strict=True)}
    blocks = {region.name: blocks.get(region.stack, blocks[region.name]) for region in hidden}
    back = [_sending(sends, edge) for edge in edges_back(hidden, kind, rule)]
    inside = [edge for edge in back if blocks[edge.source] == blocks[edge.target]]
    across = [dataclasses.replace(edge, carries=Carries.OWN) for edge in back if overlap and edge not in inside]
    over, handing = {edge.target for edge in across}, {blocks[edge.source] for edge in across}
    looped = {region.name for region in hidden if region.loops}
    reach = leads_to(regions)
    told: dict[str, set[str]] = {name: set() for name in names}  # what comes to a region from within its block
    for edge in inside:
        told[edge.target] |= reach[edge.source] if edge.target not in looped else set()
    outside: list[Edge] = []
    for region, output in itertools.product(hidden, outputs):
        straight = region.name in heard(output) and region.name not in looped
        if straight:
            outside.append(make_edge(output, region, kind, rule))
        above = [other for other in hidden if region.name in heard(other) and output.name in reach[other.name]]
        used = region.name not in over or blocks[region.name] in handing
        wanted = bool(above and rest and used) if straight else output.name in reach[region.name]
        if wanted and output.name not in told[region.name]:
            afar = make_edge(dataclasses.replace(output, inputs=()), region, kind, rest or rule)
            replaced = straight or (overlap and region.name not in heard(output))
            outside.append(dataclasses.replace(afar, carries=Carries.REST) if replaced else afar)
    return wire(regions, outside + across + inside)


def _sending(sends: float | None, edge: Edge) -> Edge:
    if sends is None or not isinstance(edge.kind, Path):
        return edge
    return dataclasses.replace(edge, kind=Path(sends))


def _modules(names: Sequence[str], block: Callable[[str], Hashable] | Collection[str] | None) -> list[Hashable]:
    """What `wire_modules` counts blocks by, of each region."""
    if callable(block):
        return list(map(block, names))
    if block is not None:
        told = "a function of a region's name that tells its block, or the names of regions that are the last of theirs"
        require(isinstance(block, Collection) and not isinstance(block, str), 'block', told, block)
        unknown = [name for name in block if name not in names]
        require(not unknown, 'block', f'names of hidden regions, {list(names)}', unknown)
        return list(itertools.accumulate((int(name in block) for name in names[:-1]), initial=0))
    calls = [split_call(name) for name in names]
    held = [(module, call) if (module := site.rpartition('/')[0]) else None for site, call in calls]
    return [own or above or name for name, (own, above) in zip(names, itertools.pairwise([*held, None]), strict=True)]


def wire_reverse(regions: Sequence[Region], *, kind: Choice = kind_by_shape, rule: Rule = _MIRROR) -> Wiring:
    """The forward graph backwards: every region from those that its activity feeds, skips included.

    Errors of many levels want `normalise=True`: without it they fade by beta at each, and those that skip a level
    outweigh those that do not.

    Args:
      regions: what `regions` returned, which knows what feeds each.
      kind: as in `wire_blocks`.
      rule: as in `wire_blocks`.

    Raises:
      ValueError: a kind or rule of another type, or a model without a Site.
    """
    hidden, outputs = apart(regions)
    return wire(regions, edges_back([*hidden, *outputs], kind, rule))


def edges_back(regions: Sequence[Region], kind: Choice, rule: Rule) -> list[Edge]:
    """An edge from each region to each that feeds it."""
    by_name = {region.name: region for region in regions}
    pairs = [(source, by_name[name]) for source in reversed(regions) for name in heard(source) if name in by_name]
    return [make_edge(source, target, kind, rule) for source, target in pairs]
