"""Curves over time, each named where it ends."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlra_jax.plot.figure import new
from rlra_jax.validate import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 0.16  # inches between two names
_LEADER = {'arrowstyle': '-', 'linewidth': 0.6, 'relpos': (0, 0.5), 'shrinkA': 2, 'shrinkB': 0}
_DASHES = ('-', '--', ':', '-.')


class Curve(NamedTuple):
    """A line, with a band around it where sd is given."""

    x: Sequence[float]
    mean: Sequence[float]
    sd: Sequence[float] | None = None


def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    x: str | Mapping[str, str] = 'epoch',
    y: str = '',
    title: str = '',
    log: bool = False,
    ordered: bool = False,
    columns: int | None = None,
) -> 'Figure':
    """Panels on one vertical axis; in each, curves by name.

    Args:
      panels: {title: {name: curve}}. A name has one colour in all of them. It stands where its curve ends, in the last
        of the panels beside each other that show the same names.
      x: what the horizontal axes show; or {title: that}.
      y: what the vertical axis shows.
      title: over all.
      log: whether the vertical axis is logarithmic, down to 1 and linear from there to 0, if the curves fall enough.
      ordered: whether names have an order, such as regions from the input to the output, which colours then show.
      columns: how many panels stand side by side; None: all.

    Raises:
      ValueError: there is no panel.
    """
    require(panels, 'panels', 'one or more', dict(panels))
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    height = max(4.0, 1.5 + _GAP * max(map(len, panels.values()), default=0))
    wide = 4.5 + 0.07 * max(map(len, names), default=0)
    figure, grid = new(wide * columns, height * rows, nrows=rows, ncols=columns, squeeze=False, sharey=True)
    styles = dict(zip(names, _styles(len(names), ordered), strict=True))
    for axis, (heading, shown) in zip(grid.flat, panels.items(), strict=False):
        for name, curve in shown.items():
            _draw(axis, curve, **styles[name])
        axis.set_title(heading, size='medium')
        axis.set(xlabel=x if isinstance(x, str) else x[heading])
        axis.locator_params(axis='x', integer=True)  # epochs are counted, and of seconds there are many
        axis.grid(alpha=0.3)
    if log:
        _from_nothing_to_a_hundred(grid[0][0], [curve for shown in panels.values() for curve in shown.values()])
    for axis in grid[:, 0]:
        axis.set_ylabel(y)
    for axis in grid.flat[len(panels) :]:
        axis.set_axis_off()
    all_shown = list(panels.values())
    for i, (axis, shown) in enumerate(zip(grid.flat, all_shown, strict=False)):
        last = i == len(all_shown) - 1 or (i + 1) % columns == 0 or set(all_shown[i + 1]) != set(shown)
        if last:
            _name_ends(axis, {name: (curve, styles[name]['color']) for name, curve in shown.items()}, height)
    figure.suptitle(title, size='medium')
    return figure


def _styles(count: int, ordered: bool) -> list[dict[str, Any]]:
    import matplotlib

    if ordered:
        shades = matplotlib.colormaps['plasma']
        return [{'color': shades(0.85 * i / max(count - 1, 1)), 'linestyle': '-'} for i in range(count)]
    return [{'color': f'C{i % 10}', 'linestyle': _DASHES[i // 10 % len(_DASHES)]} for i in range(count)]


def _draw(axis: Any, curve: Curve, **style: Any) -> None:
    mean = np.asarray(curve.mean)
    axis.plot(curve.x, mean, marker='o' if len(mean) == 1 else None, **style)
    if curve.sd is not None:
        sd = np.asarray(curve.sd)
        axis.fill_between(curve.x, mean - sd, mean + sd, alpha=0.2, color=style['color'], linewidth=0)


def _from_nothing_to_a_hundred(axis: Any, shown: Sequence[Curve]) -> None:
    """An axis for errors, which may fall by orders of magnitude, and reach 0; linear where they hardly fall."""
    from matplotlib import ticker

    means = np.concatenate([curve.mean for curve in shown])
    means = means[np.isfinite(means)]
    if not len(means) or means.max() < 3 * means.min():
        return
    lowest = means.min()
    axis.set_yscale('symlog', linthresh=1.0, subs=(2, 5))
    axis.set_ylim(bottom=0 if lowest < 1 else 0.8 * lowest)
    low, high = axis.get_ylim()
    ticks = [tick for tick in (0, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    axis.yaxis.set_major_locator(ticker.FixedLocator(ticks))
    axis.yaxis.set_minor_locator(ticker.NullLocator())
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))


def _name_ends(axis: Any, ends: Mapping[str, tuple[Curve, Any]], height: float) -> None:
    """Names to the right of the axes, moved apart where they would lie on each other."""
    shown = {name: curve for name, (curve, _) in ends.items() if np.isfinite(curve.mean[-1])}
    axis.autoscale_view()  # else the limits come only as it is drawn
    to_axes = axis.transData + axis.transAxes.inverted()
    wanted = {name: to_axes.transform((curve.x[-1], curve.mean[-1]))[1] for name, curve in shown.items()}
    for name, place in _apart(wanted, _GAP / (height - 1)).items():
        axis.annotate(
            name,
            xy=(shown[name].x[-1], shown[name].mean[-1]),
            xytext=(1.06, place),
            textcoords='axes fraction',
            **{'va': 'center', 'size': 8, 'color': ends[name][1], 'annotation_clip': False},
            arrowprops={**_LEADER, 'color': ends[name][1]},
        )


def _apart(wanted: Mapping[str, float], gap: float) -> dict[str, float]:
    """Places at least a gap apart, in their order, near those wanted, and from 0 to 1 if there is room."""
    names = sorted(wanted, key=lambda name: wanted[name])
    groups: list[list[float]] = []  # of names that stand gap by gap: what each wants the first one's place to be
    for i, name in enumerate(names):
        groups.append([wanted[name] - i * gap])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    highest = max(0.0, 1 - gap * (len(names) - 1))
    firsts = [float(np.clip(np.mean(group), 0, highest)) for group in groups for _ in group]
    return {name: first + i * gap for i, (name, first) in enumerate(zip(names, firsts, strict=True))}
