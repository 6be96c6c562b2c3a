"""Which kind of synapse fits two regions."""

import dataclasses
from collections.abc import Callable

from rlra_jax.edges import Edge, Kind, Rule
from rlra_jax.synapses import Channel, Dense, Each, Grid, Path, Token
from rlra_jax.synapses.straight import StraightKind
from rlra_jax.types import Region
from rlra_jax.validate import require
from rlra_jax.wiring.levels import heard

_LARGE, _LARGEST = 4_000_000, 400_000_000  # numbers in a synapse

Choice = Kind | Callable[[Region, Region], Kind]  # the kind of every edge, or (source, target) -> the kind


def kind_by_shape(source: Region, target: Region) -> Kind:
    """The kind that fits two regions: `Path` to one that feeds the source, else a straight one.

    An edge from afar is a linear map: `Dense`, but `Grid` where a dense synapse into a map would have more than 4
    million parameters. For others: kind=lambda source, target: ...

    Raises:
      ValueError: either would have more than 400 million.
    """
    return Path() if target.name in heard(source) else kind_straight(source, target)


def kind_straight(source: Region, target: Region) -> StraightKind:
    """As `kind_by_shape`, but straight even between neighbours."""
    large = target.shape[1:-1] and Dense().size(source, target) > _LARGE
    kind = Grid() if large else Dense()
    if kind.size(source, target) > _LARGEST:
        raise ValueError(
            f'a {kind} synapse from {source.name!r} {source.shape} to {target.name!r} {target.shape} would be too '
            'large; take kind=kind_pooled, a function of source and target that returns Channel() here, or a wiring '
            'whose edges lead from neighbour to neighbour, such as wire_reverse'
        )
    return kind


def kind_pooled(source: Region, target: Region) -> Kind:
    """As `kind_by_shape`, but `Channel` from units into maps: of models that average their last map over its positions.

    To such a model all positions of the last map are alike, and so, but for borders and strides, are those of the maps
    below. What a dense synapse could tell beyond that is little, and takes it thousands of noisy passes to learn.
    """
    afar = target.name not in heard(source)
    return Channel() if afar and not source.shape[1:-1] and target.shape[1:-1] else kind_by_shape(source, target)


def kind_tokens(source: Region, target: Region) -> Kind:
    """As `kind_by_shape`, but `Token` from afar between regions of the same positions: of models of sequences.

    An error at a position is then sent to that position alone, wherever a sequence has it.
    """
    positions = target.shape[1:-1]
    afar = target.name not in heard(source)
    return Token() if afar and positions and positions == source.shape[1:-1] else kind_by_shape(source, target)


def make_edge(source: Region, target: Region, kind: Choice, rule: Rule) -> Edge:
    """An edge whose kind is given, or chosen by a function of both regions.

    Raises:
      ValueError: kind is neither, or rule is of another type.
    """
    if not isinstance(kind, Kind):
        expected = 'an object such as Path() or Dense(), or a function of source and target that returns one'
        require(callable(kind) and not isinstance(kind, type), 'kind', expected, kind)
    chosen = kind if isinstance(kind, Kind) else kind(source, _iteration(target))
    if not isinstance(chosen, StraightKind):
        return Edge(source.name, target.name, chosen, rule)
    share, ends = chosen.share == 'calls', (source.shares or source.name, target.shares or target.name)
    for depth in reversed(range(target.loops)):
        chosen = Each(chosen, one=share and bool(target.shares) and depth not in target.unlike)
    alike = (*ends, chosen, rule, source.shape[1:], target.shape[1:])
    one = alike if share and ends != (source.name, target.name) else None
    return Edge(source.name, target.name, chosen, rule, share=one)


def make_edge_afar(source: Region, target: Region, kind: Choice, rule: Rule) -> Edge:
    """The same, to all iterations of a target in a loop: along the forward path only the last ones might hear."""
    return make_edge(dataclasses.replace(source, inputs=()) if target.loops else source, target, kind, rule)


def _iteration(region: Region) -> Region:
    """A region in a loop as one iteration of it."""
    return dataclasses.replace(region, shape=(*region.shape[:1], *region.shape[1 + region.loops :]))
