"""A network with its error pathways, as in the paper's Figure 1."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rlra_jax.edges import Wiring
from rlra_jax.model.net import Net
from rlra_jax.plot.figure import GREY, new
from rlra_jax.types import Region
from rlra_jax.wiring.levels import check_wiring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.32  # inches from region to region
_LETTER = 0.068  # inches
_INPUT = 'input'
_LEGEND = (
    'colour and number: recursion level of a region, and of the errors into it',
    'grey: forward; solid: straight synapses; dashed: back along the forward path',
)


def network(net: Net, wiring: Wiring) -> 'Figure':
    """Regions from the input up to the output; what feeds each, in grey; and the error pathways, coloured by level.

    Args:
      net: what `regions` returned.
      wiring: its error pathways. Dashed are those whose synapses follow the forward path back; the others are straight.

    Raises:
      ValueError: the wiring does not fit the model.
    """
    check_wiring(wiring, net.regions)
    names = [_INPUT, *(region.name for region in net.regions)]
    at = {name: y for y, name in enumerate(names)}
    forward = [(source, r.name) for r, below in zip(net.regions, names, strict=False) for source in _inputs(r, below)]
    level_of = wiring.level_of
    colours = _colours(len(wiring.levels))
    left = _room(at[b] - at[a] for a, b in forward if at[b] - at[a] > 1)
    right = _room(at[edge.source] - at[edge.target] for edge in wiring.edges)
    text = {region.name: _called(region) for region in net.regions} | {_INPUT: _INPUT}
    width = left + right + max(map(len, text.values())) * _LETTER / _ROW
    figure, axes = new(max(_ROW * width, _LETTER * max(map(len, _LEGEND))), _ROW * (len(at) + 1.5))
    for source, target in forward:
        _arrow(axes, at[source], at[target], GREY, side=0 if at[target] - at[source] == 1 else -1)
    for edge in wiring.edges:
        style = '--' if edge.kind.follows else '-'
        _arrow(axes, at[edge.source], at[edge.target], colours[level_of[edge.target]], side=1, style=style)
    for name in names:
        axes.text(-left, at[name], text[name], ha='right', va='center', size=8)
        level = level_of.get(name)
        axes.text(
            *(0, at[name], '' if level is None else str(level)),
            **{'ha': 'center', 'va': 'center', 'color': 'white', 'size': 8, 'zorder': 4},
            bbox={'boxstyle': 'circle,pad=0.25', 'facecolor': colours[level], 'edgecolor': 'white'},
        )
    axes.set(xlim=(right - width, right), ylim=(-0.7, len(at) - 0.3), aspect='equal', anchor='W')
    axes.set_axis_off()
    axes.set_title('\n'.join(_LEGEND), size=8, loc='left')
    return figure


def _inputs(region: Region, below: str) -> tuple[str, ...]:
    """What feeds a region; where no trace has told, the one below it."""
    return (below,) if region.inputs is None else region.inputs or (_INPUT,)


def _called(region: Region) -> str:
    return f'{region.name}   {" x ".join(map(str, region.shape[1:])) or "1"}'


def _colours(levels: int) -> dict[int | None, Any]:
    """Level -> its colour: the output's black, then from dark to light, but dark enough for white paper; None: grey."""
    import matplotlib

    shades = matplotlib.colormaps['plasma']
    return {None: GREY, 0: 'black', **{r: shades(0.85 * (r - 1) / max(levels - 1, 1)) for r in range(1, levels + 1)}}


def _reach(distance: float) -> float:
    """How far an arc between regions so far apart reaches to the side."""
    return 0.4 + 0.25 * (distance - 1)


def _room(distances: Iterable[float]) -> float:
    """What arcs need to the side."""
    return 0.8 + max(map(_reach, distances), default=0.0)


def _arrow(axes: Any, start: float, end: float, colour: Any, *, side: int, style: str = '-') -> None:
    """side: -1 to bend to the left, 1 to the right, 0 straight. From a region to itself it is a loop at its side."""
    from matplotlib.patches import FancyArrowPatch

    if start == end:
        start, end = start + side * 0.35, end - side * 0.35
    bend = side * 2 * _reach(abs(end - start)) / (end - start)
    axes.add_patch(
        FancyArrowPatch(
            *((0, start), (0, end)),
            connectionstyle=f'arc3,rad={bend}',
            arrowstyle='-|>',
            **{'mutation_scale': 8, 'shrinkA': 7, 'shrinkB': 7, 'color': colour, 'linestyle': style, 'linewidth': 1.2},
        )
    )
