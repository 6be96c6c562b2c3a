"""Pictures of finished runs, and of the rows of a table, that tell by themselves what they show."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from rlra_jax import plot
from rlra_jax.experiment.labels import run_labels
from rlra_jax.experiment.report import curves, data_of, diagnostics, hidden_angles, measure_of, read_result
from rlra_jax.plot.figure import new

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DIAGNOSTICS = {  # what is drawn of them: title and vertical axis
    'angle': ("updates and backprop's gradient", 'angle (degrees)'),
    'alignment': ('errors, and what the forward path would send', 'cosine'),
}


def of_runs(workdirs: Sequence[epath.Path]) -> 'Figure':
    """Training and validation error against epoch, a line per run and a band of one standard deviation over seeds.

    Raises:
      ValueError: a run's result.json or metrics.csv cannot be read.
    """
    results = [read_result(workdir / 'result.json') for workdir in workdirs]
    found = {
        label: (curves(workdir), len(result['per_seed']))
        for label, workdir, result in zip(run_labels(results, workdirs), workdirs, results, strict=True)
    }
    panels = {
        title: {label: _curve(run, f'{split}_error', 'epoch', seeds) for label, (run, seeds) in found.items()}
        for title, split in (('training data', 'train'), ('validation data', 'val'))
    }
    data = ', '.join(dict.fromkeys(data_of(result) for result in results))
    title = f'{data}; {_seeds(seeds for _, seeds in found.values())}'
    return plot.curves(panels, y='error (%)', title=title, log=True)


def of_diagnostics(workdir: epath.Path) -> 'dict[str, Figure]':
    """Region by region, and synapse by synapse, against epoch, means over seeds: {'angle': ..., 'alignment': ...}.

    Runs without `diagnostics` have none.
    """
    found = diagnostics(workdir)
    by_kind: dict[str, dict[str, plot.Curve]] = {kind: {} for kind in _DIAGNOSTICS}
    for name, means in found.items():
        kind, _, place = name.partition('/')
        if kind in by_kind:
            by_kind[kind][place] = plot.Curve(found['epoch'], means)
    return {
        kind: plot.curves({title: by_kind[kind]}, y=y, ordered=True)
        for kind, (title, y) in _DIAGNOSTICS.items()
        if by_kind[kind]
    }


def of_rows(rows: Sequence[Mapping[str, Any]]) -> 'Figure':
    """What each row is judged by, of the test data, with its standard deviation; a panel per data set.

    Errors stand beside the paper's. Where rows have diagnostics, a second panel has the angle of each hidden region.
    """
    by_dataset = {row['dataset']: [other for other in rows if other['dataset'] == row['dataset']][::-1] for row in rows}
    panels = [
        (draw, dataset)
        for dataset, shown in by_dataset.items()
        for draw in (_draw_errors, _draw_angles)
        if draw is _draw_errors or any(map(hidden_angles, shown))
    ]
    labels = {dataset: run_labels(shown) for dataset, shown in by_dataset.items()}
    width = 4 + 0.085 * max(len(label) for found in labels.values() for label in found)
    height = 2 + 0.3 * max(map(len, labels.values()))
    widths = [width if draw is _draw_errors else 4.5 for draw, _ in panels]
    figure, grid = new(sum(widths), height, ncols=len(panels), squeeze=False, width_ratios=widths)
    for axis, (draw, dataset) in zip(grid[0], panels, strict=True):
        shown = by_dataset[dataset]
        draw(axis, shown)
        axis.set(title=dataset, yticks=range(len(shown)), yticklabels=labels[dataset], ylim=(-0.6, len(shown) - 0.4))
        axis.tick_params(axis='y', labelleft=draw is _draw_errors, left=draw is _draw_errors)
        axis.grid(alpha=0.3)
    epochs = ' or '.join(map(str, sorted({row['epochs'] for row in rows})))
    figure.suptitle(f'{_seeds(row["num_seeds"] for row in rows)}; {epochs} epochs', size='medium')
    told = {label: own for axis in grid[0] for own, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(told.values(), told.keys(), loc='outside lower center', ncols=len(told))
    return figure


def _draw_errors(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    measure = measure_of(rows[0])
    means, sds = ([row[f'test_{measure.name}_{part}'] for row in rows] for part in ('mean', 'sd'))
    spread = [sd if row['num_seeds'] > 1 else 0 for sd, row in zip(sds, rows, strict=True)]
    axis.errorbar(means, range(len(rows)), xerr=spread, fmt='o', capsize=3, label='rlra_jax')
    paper = [(row['paper_test_error'], i) for i, row in enumerate(rows) if row['paper_test_error'] is not None]
    if paper:
        axis.plot(*zip(*paper, strict=True), 'x', color='black', label='the paper')
    scale_errors(axis, [*means, *(error for error, _ in paper)])
    axis.set(xlabel=f'test {measure.label}')


def _draw_angles(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Of the updates to backprop's gradient, region by region, and their median."""
    angles = [(angle, i) for i, row in enumerate(rows) for angle in hidden_angles(row)]
    medians = [(statistics.median(found), i) for i, row in enumerate(rows) if (found := hidden_angles(row))]
    axis.plot(*zip(*angles, strict=True), 'o', color='tab:green', alpha=0.3, label='a hidden region')
    axis.plot(*zip(*medians, strict=True), '|', color='black', markersize=14, label='their median')
    axis.axvline(90, color='gray', linestyle=':')
    largest = max(angle for angle, _ in angles)
    axis.set(xlabel="angle to backprop's gradient (degrees)", xlim=(-5, 5 + max(90, largest)))


def of_row_curves(rows: Sequence[Mapping[str, Any]], against: Sequence[str] = ('epoch',)) -> 'Figure':
    """Validation error, a line per row with a band of one standard deviation over seeds.

    A panel for each data set, activation function and horizontal axis, of which there are 'epoch' and 'seconds'.
    """
    panels: dict[str, dict[str, plot.Curve]] = {}
    horizontal: dict[str, str] = {}
    for dataset in dict.fromkeys(row['dataset'] for row in rows):
        for activation in dict.fromkeys(row['activation'] for row in rows if row['dataset'] == dataset):
            shown = [row for row in rows if (row['dataset'], row['activation']) == (dataset, activation)]
            named = list(zip(run_labels(shown), shown, strict=True))
            for x in against:
                title = f'{dataset}, {activation}' + f', against {x}' * (len(against) > 1)
                horizontal[title] = x
                panels[title] = {name: _curve(row['curves'], 'val_error', x, row['num_seeds']) for name, row in named}
    seeds = _seeds(row['num_seeds'] for row in rows)
    columns = min(len(panels), max(2, len(against)))
    return plot.curves(panels, x=horizontal, y='validation error (%)', title=seeds, log=True, columns=columns)


def _curve(run: Mapping[str, Any], field: str, x: str, seeds: int) -> plot.Curve:
    return plot.Curve(run[x], run[f'{field}_mean'], run[f'{field}_sd'] if seeds > 1 else None)


def _seeds(counts: Any) -> str:
    """'3 seeds, mean ± 1 standard deviation'."""
    found = sorted(set(counts))
    spread = ', mean ± 1 standard deviation' if found[-1] > 1 else ''
    return f'{" or ".join(map(str, found))} seed{"s" * (found[-1] > 1)}{spread}'


def scale_errors(axis: Any, errors: Sequence[float], which: str = 'x') -> None:
    """A logarithmic axis, the horizontal or the vertical one, where a few would push all others together."""
    from matplotlib import ticker

    if min(errors) > 0 and max(errors) > 4 * min(errors):
        axis.set(**{f'{which}scale': 'log'})
        numbers = getattr(axis, f'{which}axis')
        numbers.set_minor_locator(ticker.LogLocator(subs=(2, 3, 5)))
        for form in (numbers.set_major_formatter, numbers.set_minor_formatter):
            form(ticker.FormatStrFormatter('%g'))
