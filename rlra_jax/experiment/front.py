"""The trials of a study that are best for their cost, as table, picture and numbers."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rlra_jax import plot
from rlra_jax.experiment import report
from rlra_jax.experiment.pictures import scale_errors
from rlra_jax.experiment.space import FREE
from rlra_jax.plot.figure import GREY, new
from rlra_jax.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = {
    'synapses': 'numbers in all error synapses',
    'levels': 'recursion levels',
    'flops': 'FLOPs of a training step per example',
}


class Point(NamedTuple):
    """A trial that was trained to the end."""

    number: int
    wiring: str  # one made by hand, or 'edge by edge'
    options: Mapping[str, Any]  # what it changes in the study's config
    costs: Mapping[str, float]
    result: Mapping[str, Any]  # what its measure tells of, and standard deviations over seeds

    @property
    def measure(self) -> report.Measure:
        """What it is judged by."""
        return report.measure_of(self.result)

    @property
    def error(self) -> float:
        """Of validation: errors in %, but of a text bits per character."""
        return self.result[f'val_{self.measure.name}']

    @property
    def argument(self) -> str:
        """What trains it again: behind the colon of --config."""
        return ','.join(f'{key}={_literal(value)}' for key, value in self.options.items())


def _literal(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list) else str(value)


def best(points: Sequence[Point], cost: str) -> list[Point]:
    """Those than which no other has a lower validation error and costs no more; cheapest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.costs[cost], p.error)):
        if not found or point.error < found[-1].error:
            found.append(point)
    return found


def told(costs: Mapping[str, float]) -> str:
    """'17,664 synapses, 2 levels'."""
    return ', '.join(f'{value:,.0f} {name}' for name, value in costs.items())


def write(folder: pathlib.Path, points: Sequence[Point], cost: str) -> None:
    """front.json with all trials, front.md with those of the front, and front.png, .svg and .pdf."""
    front = best(points, cost)
    numbers = {point.number for point in front}
    rows = [
        {**point._asdict(), 'argument': point.argument, 'on_the_front': point.number in numbers} for point in points
    ]
    report.write_json(folder / 'front.json', {'cost': cost, 'trials': rows, 'versions': report.versions()})
    if not points:
        return
    (folder / 'front.md').write_text(f'{table(points, cost).markdown()}\n', encoding='utf-8')
    figure = picture(points, cost)
    for suffix in ('png', 'svg', 'pdf'):
        plot.save(figure, folder / f'front.{suffix}')


def table(points: Sequence[Point], cost: str) -> Table:
    """The front, and the best of the wirings made by hand if it is none of that."""
    shown = best(points, cost)
    by_hand = min((p for p in points if p.wiring != FREE), key=lambda p: p.error, default=None)
    shown += [by_hand] if by_hand is not None and by_hand not in shown else []
    costs = [name for name in COSTS if all(name in p.costs for p in shown)]  # a later budget may count more
    name = shown[0].measure.name
    head = ('trial', 'wiring', *costs, f'validation {name}', f'test {name}')
    entries = f'val_{name}', f'test_{name}'
    rows = [
        (
            str(p.number),
            _wiring(p),
            *(f'{p.costs[name]:,.0f}' for name in costs),
            *(report.with_spread(p.result[e], p.result[f'{e}_sd'], p.result['seeds']) for e in entries),
        )
        for p in shown
    ]
    notes = (
        f'Best for their {cost} of {len(points)} trials that were trained to the end, by validation {name}, and the '
        'best of the wirings made by hand. What was chosen among many is too low by that.',
        'Again, with --config=CONFIG: and then, trial by trial:',
        *(f'{p.number}: `{p.argument}`' for p in shown),
    )
    return Table(head, rows, (*costs, *head[-2:]), notes)


def _wiring(point: Point) -> str:
    """Its name; of one that was searched, what each region hears from."""
    kind = f', {point.options["learner.kind"]}' if 'learner.kind' in point.options else ''
    return (', '.join(point.options['learner.edges']) if point.wiring == FREE else point.wiring) + kind


def picture(points: Sequence[Point], cost: str) -> 'Figure':
    """Validation error of each trial against its cost; the front as a line with the numbers of its trials."""
    figure, axis = new(7, 4.5)
    for label, marker, searched in (('made by hand', 's', False), ('searched edge by edge', 'o', True)):
        shown = [p for p in points if (p.wiring == FREE) == searched]
        axis.plot([p.costs[cost] for p in shown], [p.error for p in shown], marker, label=label, alpha=0.6)
    front = best(points, cost)
    axis.step([p.costs[cost] for p in front], [p.error for p in front], where='post', color=GREY, label='the front')
    for point in front:
        place = {'xytext': (4, 4), 'textcoords': 'offset points', 'size': 8}
        axis.annotate(str(point.number), (point.costs[cost], point.error), **place)
    scale_errors(axis, [p.error for p in points], 'y')
    axis.set(xlabel=COSTS[cost], ylabel=f'validation {points[0].measure.label}', title=_title(points))
    axis.margins(0.08)
    axis.grid(alpha=0.3)
    figure.legend(loc='outside lower center', ncols=3)
    return figure


def _title(points: Sequence[Point]) -> str:
    seeds = points[0].result['seeds']
    return f'{len(points)} trials' + (f', each the mean of {seeds} seeds' if seeds > 1 else '')
