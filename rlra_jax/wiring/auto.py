"""`wire_auto`: an error pathway from the sizes of the regions and the number of processors.

"One might choose [depth 2] if layers 2, 5, and 8 are bottleneck layers (they contain low numbers of neurons) and 5 GPUs
are available - rec-LRA would first use 3 GPUs to parallel compute targets/mismatches for layers 8, 5, and 2 and then 5
GPUs [for] the remaining layers" (the paper, section The Learning Algorithm).
"""

import dataclasses
import math
from collections.abc import Hashable, Iterable, Sequence

from rlra_jax.edges import Edge, Kind, Rule, Wiring
from rlra_jax.rules import Mirror
from rlra_jax.synapses import Channel, Each, Grid
from rlra_jax.synapses.straight import StraightKind
from rlra_jax.types import Region
from rlra_jax.validate import require_count
from rlra_jax.wiring.choose import Choice, kind_by_shape, make_edge_afar
from rlra_jax.wiring.levels import apart, leads_to, missed, wire

_MIRROR = Mirror()


def wire_auto(
    regions: Sequence[Region],
    *,
    devices: int,
    max_synapses: int | None = None,
    kind: Choice = kind_by_shape,
    rule: Rule = _MIRROR,
) -> Wiring:
    """Bottlenecks from the output, others from the nearest that they feed: two levels that keep devices busy.

    With a device for each region, all hear the output, at one level. Else the smallest regions make level 1: as many as
    are smaller than the regions' geometric mean (every second one if none is), or the nearest number with which the two
    levels together take no more rounds of `devices` regions than need be. The last hidden region is always among them.

    Args:
      regions: what `regions` returned.
      devices: how many regions are computed at once.
      max_synapses: most parameters that all error synapses may have together, copies counted. The largest straight
        ones become `Grid` until it is met; where that is not enough, the largest that are left become `Channel`. Those
        along paths stay.
      kind: as in `wire_blocks`.
      rule: as in `wire_blocks`.

    Raises:
      ValueError: devices or max_synapses below 1, too small a max_synapses, a kind or rule of another type, or a model
        without a Site.
    """
    require_count('devices', devices)
    hidden, outputs = apart(regions)
    first = _bottlenecks([math.prod(region.shape[1:]) for region in hidden], devices)
    edges: list[Edge] = []
    above, fed = list[Region](), leads_to(regions)
    for index, region in reversed(list(enumerate(hidden))):
        near = [] if index in first or region.loops else [s for s in above if s.name in fed[region.name]][:1]
        sources = [*near, *missed(region, near, outputs, fed)]
        edges[:0] = [make_edge_afar(source, region, kind, rule) for source in sources]
        if index in first:
            above.insert(0, region)
    wiring = wire(regions, edges)
    if max_synapses is not None:
        require_count('max_synapses', max_synapses)
        wiring = wire(regions, _fit(edges, {region.name: region for region in regions}, max_synapses))
    return wiring


def _bottlenecks(sizes: Sequence[int], devices: int) -> set[int]:
    """The indices of the regions of level 1."""
    total, last = len(sizes), len(sizes) - 1
    if total <= devices:
        return set(range(total))
    mean = math.exp(sum(math.log(size) for size in sizes) / total)
    small = sum(size < 0.999 * mean for size in sizes) or math.ceil(total / 2)

    def cost(number: int) -> tuple[int, int]:
        rounds = math.ceil(number / devices) + math.ceil((total - number) / devices)
        return rounds, abs(number - small)

    wanted = min(range(1, total), key=cost) - 1  # besides the last
    if not wanted:
        return {last}
    cutoff = sorted(sizes[:last])[wanted - 1]
    smaller = {index for index in range(last) if sizes[index] < cutoff}
    equal = [index for index in range(last) if sizes[index] == cutoff]
    left = wanted - len(smaller)
    spread = {equal[(k * (len(equal) + 1)) // (left + 1) - 1] for k in range(1, left + 1)}
    return smaller | spread | {last}


def _fit(edges: Sequence[Edge], regions: dict[str, Region], most: int) -> list[Edge]:
    """Turns the largest synapses into cheaper ones until there are no more than `most` parameters."""

    def size(edge: Edge) -> int:
        return edge.kind.size(regions[edge.source], regions[edge.target])

    def held(edge: Edge) -> Hashable:
        # Edges of a path, and those between calls of Sites, hold one E.
        return edge.synapse if edge.share is None else edge.share

    def total(edges: Iterable[Edge]) -> int:
        return sum({edge.synapse: size(edge) for edge in edges}.values())

    kept = list(edges)
    for kind in (Grid(), Channel()):
        for edge in sorted((edge for edge in kept if not edge.kind.follows), key=size, reverse=True):
            cheaper = [_of_kind(other, kind) if held(other) == held(edge) else other for other in kept]
            if total(kept) > most and total(cheaper) < total(kept):
                kept = cheaper
    if total(kept) > most:
        raise ValueError(f'max_synapses must be at least {total(kept)} for these regions; got {most}')
    return kept


def _of_kind(edge: Edge, kind: StraightKind) -> Edge:
    def replaced(own: Kind) -> StraightKind:
        return dataclasses.replace(own, kind=replaced(own.kind)) if isinstance(own, Each) else kind

    return dataclasses.replace(edge, kind=replaced(edge.kind))
