"""What a finished run leaves for people and programs: result.json, tables, and plots of error curves."""

import ast
import functools
import hashlib
import itertools
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from etils import epath

import rlra_jax
from rlra_jax.experiment.checkout import commit
from rlra_jax.experiment.entries import flat, to_json, what
from rlra_jax.experiment.metrics import COLUMNS, read_metrics
from rlra_jax.experiment.storage import writing

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
ERRORS = ('train_error', 'val_error', 'test_error')
TOP5_ERRORS = ('train_top5_error', 'val_top5_error', 'test_top5_error')
LOSSES = ('train_loss', 'val_loss', 'test_loss')  # of texts, with what `text.measures_of` makes of them
_TELLING = {  # entries that tell rows of one algorithm apart, and how a label says them
    'model': '{}',
    'rule': '{}',
    'wiring': '{}',
    'activation': '{}',
    'batch_size': 'batch {}',
}


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {'python': platform.python_version(), 'rlra_jax': rlra_jax.__version__, **packages}


@functools.cache
def code_sha256() -> str:
    """Of this package's programs, comments and layout aside, as they were at the first call."""
    root = pathlib.Path(rlra_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob('*.py')):
        digest.update(f'{path.relative_to(root).as_posix()}\n{ast.dump(ast.parse(path.read_bytes()))}\n'.encode())
    return digest.hexdigest()


def device() -> dict[str, Any]:
    """What the run ran on."""
    first = jax.devices()[0]
    return {
        'platform': first.platform,
        'kind': first.device_kind,
        'count': jax.device_count(),
        'processes': jax.process_count(),
        'cpu_cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    }


def summarise(per_seed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of all but 'seed' and the best epoch, with sample standard deviations (0 for one seed)."""
    summary: dict[str, Any] = {}
    for name in [name for name in per_seed[0] if name not in ('seed', 'best_epoch')]:
        values = np.array([row[name] for row in per_seed])
        summary[name] = float(values.mean())
        summary[f'{name}_sd'] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    summary['best_epoch'] = int(np.median([row['best_epoch'] for row in per_seed]))
    return summary


def write_json(path: epath.Path | pathlib.Path, value: Any) -> None:
    """Writes through a temporary file, so that a kill leaves the old file or the new one."""
    text, scratch = to_json(value, indent=2) + '\n', path.with_suffix('.tmp')
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding='utf-8')
        scratch.replace(path)


def read_json(
    path: epath.Path | pathlib.Path,
    keys: Sequence[str] = (),
    remedy: str = 'remove that file, and nothing else: the same command makes it anew',
) -> dict[str, Any]:
    """What `write_json` wrote.

    Args:
      path: the file.
      keys: of the dictionary that it holds.
      remedy: what to do about a damaged one.

    Raises:
      ValueError: naming the file and the remedy, if it is damaged or lacks one of these keys.
    """
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f'{path} cannot be read ({error}); {remedy}') from error
    missing = sorted(set(keys) - set(value)) if isinstance(value, dict) else list(keys)
    if missing or not isinstance(value, dict):
        raise ValueError(
            f'{path} must hold a dictionary with {list(keys)}; {missing or "a dictionary"} is missing; {remedy}'
        )
    return value


def read_result(path: epath.Path | pathlib.Path) -> dict[str, Any]:
    """A run's result.json; raises as `read_json` does."""
    return read_json(
        path, ('learner', 'config', 'per_seed', 'best_epoch', *(f'{e}{p}' for e in ERRORS for p in ('', '_sd')))
    )


def command() -> str:
    """The command line of this process, as a user would type it."""
    main = sys.modules['__main__']
    module = getattr(getattr(main, '__spec__', None), 'name', None)
    program = f'-m {module}' if module else sys.argv[0]
    return f'python {program} {shlex.join(sys.argv[1:])}'.rstrip()


def provenance(data_sha256: str) -> dict[str, Any]:
    """What every result file says of where its numbers come from."""
    return {
        'command': command(),
        'versions': versions(),
        'code_sha256': code_sha256(),
        'git': commit(),
        'device': device(),
        'data_sha256': data_sha256,
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Results side by side, as Markdown; errors in %, and where there are texts, bits per character of those."""
    texts = any('test_bits' in result for result in results)
    titles = ['learner', 'data', 'train error', 'validation error', 'test error']
    titles += [*(['test bits', 'perplexity'] if texts else []), 'seeds', 'best epoch']
    rows = [titles, ['---'] * len(titles)]
    for result, label in zip(results, run_labels(results), strict=True):
        cells = [label, result['config']['dataset'], *(_mean_and_sd(result, name, 2) for name in ERRORS)]
        cells += [_mean_and_sd(result, f'test_{name}', 3) for name in ('bits', 'perplexity') if texts]
        rows.append([*cells, str(len(result['per_seed'])), str(result['best_epoch'])])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _mean_and_sd(result: dict[str, Any], name: str, digits: int) -> str:
    return f'{result[name]:.{digits}f} ± {result[f"{name}_sd"]:.{digits}f}' if name in result else ''


def run_labels(results: Sequence[dict[str, Any]]) -> list[str]:
    """What to call runs: their learners, and those of one learner also by the entries in which their configs differ."""
    configs = [flat(what(result['config'])) for result in results]
    labels = []
    for result, config in zip(results, configs, strict=True):
        alike = [own for other, own in zip(results, configs, strict=True) if other['learner'] == result['learner']]
        told = [key for key, value in config.items() if any(own.get(key) != value for own in alike)]
        labels.append(' '.join([result['learner'], *(f'{key.rpartition(".")[2]}={config[key]}' for key in told)]))
    return labels


def plot_curves(workdirs: Sequence[epath.Path], path: pathlib.Path) -> None:
    """Training and validation error against epoch, a line per run and a band of one standard deviation over seeds.

    Raises:
      ValueError: a run's result.json or metrics.csv cannot be read.
    """
    from matplotlib import ticker
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout='constrained')  # not pyplot's: a notebook's backend is left alone
    axes = figure.subplots(1, 2)
    labels = run_labels([read_result(workdir / 'result.json') for workdir in workdirs])
    for workdir, label in zip(workdirs, labels, strict=True):
        found = curves(workdir)
        for axis, field in zip(axes, ('train_error', 'val_error'), strict=True):
            mean, sd = (np.array(found[f'{field}_{part}']) for part in ('mean', 'sd'))
            (line,) = axis.plot(found['epoch'], mean, label=label)
            axis.fill_between(found['epoch'], mean - sd, mean + sd, alpha=0.2, color=line.get_color(), linewidth=0)
    for axis, title in zip(axes, ('training error', 'validation error'), strict=True):
        axis.set(title=title, xlabel='epoch')
        axis.set_yscale('symlog', linthresh=1.0)  # errors reach 0, and fall by orders of magnitude before
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('error (%)')
    axes[1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


def plot_rows(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Test error of each row with its standard deviation, beside the paper's, a panel per data set."""
    from matplotlib.figure import Figure

    datasets = list(dict.fromkeys(row['dataset'] for row in rows))
    height = 1.5 + 0.3 * max(sum(row['dataset'] == dataset for row in rows) for dataset in datasets)
    figure = Figure(figsize=(6 * len(datasets), height), layout='constrained')
    axes = figure.subplots(1, len(datasets), squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        shown = [row for row in rows if row['dataset'] == dataset][::-1]
        labels = row_labels(shown)
        means, sds = ([row[f'test_error_{part}'] for row in shown] for part in ('mean', 'sd'))
        axis.errorbar(means, range(len(shown)), xerr=sds, fmt='o', capsize=3, label='rlra_jax')
        paper = [(row['paper_test_error'], i) for i, row in enumerate(shown) if row['paper_test_error'] is not None]
        if paper:
            axis.plot(*zip(*paper, strict=True), 'x', color='black', label='paper')
        axis.set(title=dataset, xlabel='test error (%)', yticks=range(len(shown)), yticklabels=labels)
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    save_figure(figure, path)


def save_figure(figure: Any, path: pathlib.Path) -> None:
    """The same picture is the same file: an SVG has no date in it, and no random names."""
    import matplotlib

    with matplotlib.rc_context({'svg.hashsalt': 'rlra_jax'}):
        figure.savefig(path, dpi=120, metadata={'Date': None} if path.suffix == '.svg' else None)


def row_labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a panel of a picture calls its rows: those that share a name also by what sets them apart."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault(row['algorithm'] or row['learner'], []).append(row)
    found = []
    for row in rows:
        name = row['algorithm'] or row['learner']
        told = [key for key in _TELLING if len({other.get(key) for other in alike[name]} - {None}) > 1]
        found.append(' '.join([name, *(_TELLING[key].format(row[key]) for key in told if row.get(key))]))
    return found


def curves(workdir: epath.Path) -> dict[str, list[float]]:
    """Errors in % after each epoch of a finished run: means and standard deviations over seeds.

    'seconds' is the time since the start, all seeds together, without compilation and checkpoints.
    """
    rows = read_metrics(workdir / 'metrics.csv')
    missing = sorted({*COLUMNS} - set(rows[0])) if rows else ['rows']
    if missing:
        raise ValueError(f'{workdir / "metrics.csv"} must hold {list(COLUMNS)} of each epoch; {missing} are missing')
    epochs = sorted({row['epoch'] for row in rows})
    spent = np.cumsum([next(row['seconds'] for row in rows if row['epoch'] == epoch) for epoch in epochs])
    found: dict[str, list[float]] = {'epoch': epochs, 'seconds': spent.round(3).tolist()}
    for field in ('train_error', 'val_error'):
        values = np.array([[row[field] for row in rows if row['epoch'] == epoch] for epoch in epochs])
        found[f'{field}_mean'] = values.mean(axis=1).round(4).tolist()
        found[f'{field}_sd'] = (
            (values.std(axis=1, ddof=1) if values.shape[1] > 1 else 0 * values[:, 0]).round(4).tolist()
        )
    return found


def last_diagnostics(workdir: epath.Path) -> dict[str, float]:
    """Each diagnostic after the last epoch of a finished run, averaged over seeds; not the angles to no gradient."""
    rows = read_metrics(workdir / 'metrics.csv')
    last = [row for row in rows if row['epoch'] == rows[-1]['epoch']]
    means = {name: float(np.mean([row[name] for row in last])) for name in last[0] if '/' in name}
    return {name: mean for name, mean in means.items() if np.isfinite(mean)}


def plot_row_curves(rows: Sequence[dict[str, Any]], path: pathlib.Path, against: Sequence[str] = ('epoch',)) -> None:
    """Validation error, a line per row with a band of one standard deviation over seeds.

    A panel for each data set, activation function and horizontal axis, of which there are 'epoch' and 'seconds'; a
    colour for each learner, and dashes tell its rows apart.
    """
    from matplotlib.figure import Figure

    datasets, activations = (list(dict.fromkeys(row[key] for row in rows)) for key in ('dataset', 'activation'))
    columns = list(itertools.product(activations, against))
    figure = Figure(figsize=(6 * len(columns), 4 * len(datasets)), layout='constrained')
    axes = figure.subplots(len(datasets), len(columns), squeeze=False, sharey='row')
    colours = {name: f'C{i}' for i, name in enumerate(dict.fromkeys(row['learner'] for row in rows))}
    for panels, dataset in zip(axes, datasets, strict=True):
        for axis, (activation, abscissa) in zip(panels, columns, strict=True):
            shown = [row for row in rows if (row['dataset'], row['activation']) == (dataset, activation)]
            _draw_curves(axis, shown, colours, abscissa)
            axis.set(title=f'{dataset}, {activation}', xlabel=abscissa, ylabel='validation error (%)')
    save_figure(figure, path)


_DASHES = ('-', '--', ':', '-.', (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))


def _draw_curves(axis: Any, rows: Sequence[dict[str, Any]], colours: dict[str, str], abscissa: str) -> None:
    """One panel of `plot_row_curves`."""
    from matplotlib import ticker

    dashes = {name: itertools.cycle(_DASHES) for name in colours}
    for row, label in zip(rows, row_labels(rows), strict=True):
        colour, x = colours[row['learner']], row['curves'][abscissa]
        mean, sd = (np.array(row['curves'][f'val_error_{part}']) for part in ('mean', 'sd'))
        axis.plot(x, mean, label=label, color=colour, linestyle=next(dashes[row['learner']]))
        axis.fill_between(x, mean - sd, mean + sd, alpha=0.2, color=colour, linewidth=0)
    axis.set_yscale('log')
    axis.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 3, 5)))
    for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        which(ticker.FormatStrFormatter('%g'))
    axis.grid(alpha=0.3, which='both')
    if rows:
        axis.legend(fontsize='small')
