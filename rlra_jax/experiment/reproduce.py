"""A table or figure of the paper, row after row: search, train, report. Stopped, it goes on with the row it was at."""

import csv
import hashlib
import io
import json
import logging
import math
import pathlib
import shlex
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from rlra_jax import plot
from rlra_jax.experiment import pictures, report
from rlra_jax.experiment.data import Dataset, load
from rlra_jax.experiment.entries import flat, what
from rlra_jax.experiment.nonfinite import NonFiniteError
from rlra_jax.experiment.progress import progress
from rlra_jax.experiment.storage import writing
from rlra_jax.experiment.train import train
from rlra_jax.experiment.workdir import own_workdir
from rlra_jax.parallel.distributed import leads
from rlra_jax.tables import Table

_LOG = logging.getLogger(__name__)
_KEYS = (  # what every report needs of a row
    *('name', 'algorithm', 'dataset', 'learner', 'rule', 'wiring', 'activation', 'num_seeds', 'epochs'),
    *('train_error_mean', 'train_error_sd', 'paper_train_error'),
    *('test_error_mean', 'test_error_sd', 'paper_test_error', 'val_error_mean'),
    *('config', 'device', 'versions'),
)


def reproduce(
    name: str,
    experiment: Any,
    *,
    results: pathlib.Path,
    runs: epath.Path,
    select: Callable[[str], bool] = lambda row: True,
    quick: bool = False,
) -> list[dict[str, Any]]:
    """Trains the rows of an experiment that results/NAME.json does not hold yet, and reports after each.

    Args:
      name: of the experiment; names the files.
      experiment: a module such as `configs/mlp.py`, with get_config, rows, SEARCH and QUICK, to which a row may add its
        own 'search' and 'quick'; CURVES, against what its picture shows error curves, if it does; and COLUMNS, those of
        the table that not every experiment has.
      results: folder of NAME.json, .md, .csv and the picture.
      runs: folder of the workdirs, from which a stopped row goes on. Rows whose search finds the same config, of
        one experiment or of two, are one run.
      select: which rows to train, by their names.
      quick: a small version: QUICK's options, and no search.

    Returns:
      All rows finished so far, in the experiment's order.
    """
    path = results / f'{name}.json'
    done = _finished(path)
    rows = {row['name']: row for row in experiment.rows()}
    waiting = [key for key in rows if key not in done and select(key)]
    _tell_of_old(path, [done[key] for key in rows if key in done and select(key)], experiment, quick)
    if leads():
        with writing(results):  # told before anything is trained
            results.mkdir(parents=True, exist_ok=True)
            if done and not all(path.with_suffix(suffix).exists() for suffix in _TABLES):
                write_report(path, [done[key] for key in rows if key in done], experiment)
    datasets: dict[str, Dataset] = {}
    for key in progress(waiting, name, total=len(waiting), unit='row'):
        small = {**experiment.QUICK, **rows[key].get('quick', {})} if quick else None
        row = _row(name, rows[key], experiment, runs, datasets, small)
        done = {**_finished(path), key: row}  # read anew: another process may have trained other rows meanwhile
        if leads():
            write_report(path, [done[other] for other in rows if other in done], experiment)
    return [done[key] for key in rows if key in done]


def _finished(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """{name: row} of a file's rows, which must be whole, since all are reported again."""
    rows = report.read_json(path, ['rows'])['rows'] if path.exists() else []
    for row in rows:
        if missing := sorted(set(_KEYS) - set(row)):
            raise ValueError(
                f'a row of {path} lacks {missing}: remove {row.get("name", row)!r} there, to train it anew'
            )
    return {row['name']: row for row in rows}


def _tell_of_old(path: pathlib.Path, kept: Sequence[dict[str, Any]], experiment: Any, quick: bool) -> None:
    """Warns of rows that would not be trained so today."""
    wanted = {row['name']: _configs(row, experiment, quick) for row in experiment.rows()}
    why = {
        'another config': [row['name'] for row in kept if not _is_one_of(flat(row['config']), wanted[row['name']])],
        'other code': [row['name'] for row in kept if row.get('code_sha256') != report.code_sha256()],
    }
    for reason, names in why.items():
        if names:
            _LOG.warning('kept, though %s made them: %s; remove them from %s to train anew', reason, names, path)


def _configs(row: dict[str, Any], experiment: Any, quick: bool) -> list[dict[str, Any]]:
    """What a row may be trained with: a flat config for each point of its grid."""
    small = {**experiment.QUICK, **row.get('quick', {})} if quick else {}
    options = ({**row['options'], **point, **small} for point in row['grid'])
    return [flat(what(experiment.get_config(_argument(each)))) for each in options]


def _is_one_of(config: dict[str, Any], wanted: Sequence[dict[str, Any]]) -> bool:
    """Up to entries that only one of both has, since configs gain some over time, and up to `_ALIKE`."""

    def alike(key: str, value: Any) -> bool:
        return config[key] == value or all(each in _ALIKE.get(key, ()) for each in (config[key], value))

    return any(all(alike(key, value) for key, value in own.items() if key in config) for own in wanted)


def _search(
    row: dict[str, Any], experiment: Any, run: Callable[[dict[str, Any]], tuple[dict[str, Any], epath.Path]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(every point of a row's grid and how it did, the best one), by what its data are judged by in validation."""
    tried, reached = [], []
    for point in row['grid']:
        try:
            result, _ = run({**row['options'], **point, **experiment.SEARCH, **row.get('search', {})})
        except NonFiniteError as diverged:
            _LOG.warning('search %s %s diverged: %s', row['name'], point, diverged)
            reached.append(math.inf)
            tried.append({**point, 'val_error': None})
        else:
            measure = report.measure_of(result)
            reached.append(result[f'val_{measure.name}'])
            _LOG.info('search %s %s: validation %s %.3f', row['name'], point, measure.label, reached[-1])
            tried.append({**point, f'val_{measure.name}': reached[-1]})
    return tried, row['grid'][reached.index(min(reached))]


def _row(
    name: str,
    row: dict[str, Any],
    experiment: Any,
    runs: epath.Path,
    datasets: dict[str, Dataset],
    quick: dict[str, Any] | None,
) -> dict[str, Any]:
    """Searches the row's grid, if it has several points, and trains the winner on all seeds."""

    def run(options: dict[str, Any]) -> tuple[dict[str, Any], epath.Path]:
        config = experiment.get_config(_argument(options))
        if config.dataset not in datasets:
            datasets[config.dataset] = load(config.dataset, config.data_dir or None)
        workdir = own_workdir(runs, config)
        return train(config, workdir, datasets[config.dataset]), workdir

    if len(row['grid']) > 1 and quick is None:
        tried, best = _search(row, experiment, run)
    else:
        tried, best = [], row['grid'][0]
    options = {**row['options'], **best, **(quick or {})}
    result, workdir = run(options)
    measure = report.measure_of(result)
    _LOG.info('%s: test %s %.3f', row['name'], measure.label, result[f'test_{measure.name}'])
    learner, config = result['config']['learner'], result['config']
    finished = {
        'name': row['name'],
        'algorithm': row['algorithm'],
        'dataset': config['dataset'],
        'model': config['model']['name'],
        'learner': learner['name'],
        'activation': config['model']['phi'],
        'wiring': _wiring(learner),
        'rule': learner.get('rule'),
        'batch_size': config['batch_size'],
        'seeds': [seed['seed'] for seed in result['per_seed']],
        'num_seeds': len(result['per_seed']),
        'epochs': result['epochs'],
        **{f'{entry}_mean': result[entry] for entry in measure.entries},
        **{f'{entry}_sd': result[f'{entry}_sd'] for entry in measure.entries},
        **{f'{error}_mean': result[error] for error in report.TOP5_ERRORS},
        'best_epoch': result['best_epoch'],
        'step_ms': 1000 * result['seconds_train'] / (result['epochs'] * result['steps_per_epoch']),
        'paper_train_error': row['paper_train_error'],
        'paper_test_error': row['paper_test_error'],
        'command': f'python -m launch.train {shlex.quote(f"--config=configs/{name}.py:{_argument(options)}")}',
        'search': tried,
        'config': config,
        'config_sha256': hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        'code_sha256': result.get('code_sha256'),
        'data_sha256': result['data_sha256'],
        'versions': result['versions'],
        'device': result['device'],
    }
    if config['diagnostics']:
        finished['diagnostics'] = report.last_diagnostics(workdir)
    if getattr(experiment, 'CURVES', ()):
        finished['curves'] = report.curves(workdir)
    return finished


def _wiring(learner: dict[str, Any]) -> str | None:
    if 'through' in learner:
        return f'{learner["wiring"]}, through {learner["through"]}'
    size = learner.get('modules_per_block', 1)
    return learner.get('wiring') if size == 1 else f'{learner["wiring"]} by {size}'


def _argument(options: dict[str, Any]) -> str:
    return ','.join(f'{key}={value}' for key, value in options.items())


_COLUMNS = {  # title: cell
    'row': lambda row: row['name'],
    'algorithm': lambda row: row['algorithm'] or '',
    'data': lambda row: row['dataset'],
    'learner': lambda row: row['learner'],
    'rule': lambda row: row['rule'] or '',
    'wiring': lambda row: row['wiring'] or '',
    'activation': lambda row: row['activation'],
    'batch': lambda row: str(row['config']['batch_size']),
    'train': lambda row: _spread(row, 'train_error'),
    'paper train': lambda row: _number(row['paper_train_error']),
    'test': lambda row: _spread(row, 'test_error'),
    'paper test': lambda row: _number(row['paper_test_error']),
    'test top-5': lambda row: f'{row["test_top5_error_mean"]:.2f}',
    'validation': lambda row: f'{row["val_error_mean"]:.2f}',
    'train bits': lambda row: _spread(row, 'train_bits', 3),
    'test loss': lambda row: _spread(row, 'test_loss', 3),
    'test bits': lambda row: _spread(row, 'test_bits', 3),
    'test perplexity': lambda row: _spread(row, 'test_perplexity', 3),
    'test error': lambda row: _spread(row, 'test_error'),
    'best epoch': lambda row: str(row['best_epoch']),
    'step ms': lambda row: f'{row["step_ms"]:.1f}',
    'median cosine': lambda row: _number(_median_cosine(row)),
    'seeds': lambda row: str(row['num_seeds']),
    'epochs': lambda row: str(row['epochs']),
}
_ALIKE = {'learner.gap': (None, 2)}  # values that mean the same; older rows have what None stands for
_TABLES = '.md', '.csv'
_WORTH_DRAWING = 3  # epochs
_OWN = {  # the columns that only rows with such a measure have
    'error': ('train', 'paper train', 'test', 'paper test', 'test top-5', 'validation'),
    'bits': ('train bits', 'test loss', 'test bits', 'test perplexity', 'test error'),
}
_OPTIONAL = ('row', 'batch', 'test top-5', 'validation', 'best epoch', 'step ms', 'median cosine')


def write_report(path: pathlib.Path, rows: Sequence[dict[str, Any]], experiment: Any) -> None:
    """NAME.json, and beside it the same as Markdown, as .csv without the nested entries, and a picture.

    In Markdown the rows that are judged by the same measure are a table. There is no picture of rows that show but that
    the program runs, with an epoch or two.
    """
    report.write_json(path, {'rows': list(rows)})
    lines = [f'# {path.stem}']
    for measure in dict.fromkeys(map(report.measure_of, rows)):
        shown = [row for row in rows if report.measure_of(row) == measure]
        lines += ['', *_table(measure, shown, getattr(experiment, 'COLUMNS', ()))]
    machines = {f'{r["device"]["kind"]}, {r["device"]["cpu_cores"]} cores, jax {r["versions"]["jax"]}' for r in rows}
    lines += ['', f'On {"; ".join(sorted(machines))}. Commands, searches and data hashes: {path.name}.']
    flat = [{key: value for key, value in row.items() if not isinstance(value, dict | list)} for row in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, dict.fromkeys(key for row in flat for key in row), lineterminator='\n')
    writer.writeheader()
    writer.writerows(flat)
    for suffix, text in zip(_TABLES, ('\n'.join(lines) + '\n', table.getvalue()), strict=True):
        report.write_text(path.with_suffix(suffix), text)
    if max(row['epochs'] for row in rows) < _WORTH_DRAWING:
        return
    against = getattr(experiment, 'CURVES', ())
    figure = pictures.of_row_curves(rows, against) if against else pictures.of_rows(rows)
    for suffix in ('.png', '.svg', '.pdf'):
        plot.save(figure, path.with_suffix(suffix))


def _table(measure: report.Measure, rows: Sequence[dict[str, Any]], extra: Sequence[str]) -> list[str]:
    """Lines of Markdown: what the numbers of these rows are, and the rows, with the optional columns in `extra`."""
    others = {title for name, titles in _OWN.items() if name != measure.name for title in titles}
    titles = [title for title in _COLUMNS if title not in others and (title in extra or title not in _OPTIONAL)]
    told = [measure.what, *([report.WHAT_BEST_EPOCHS_ARE] if 'best epoch' in titles else [])]
    cells = [tuple(_COLUMNS[title](row) for title in titles) for row in rows]
    return [' '.join(told), '', Table(tuple(titles), cells).markdown()]


def _spread(row: dict[str, Any], entry: str, digits: int = 2) -> str:
    return report.with_spread(row[f'{entry}_mean'], row[f'{entry}_sd'], row['num_seeds'], digits)


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.2f}'


def _median_cosine(row: dict[str, Any]) -> float | None:
    """Over the hidden regions: of their updates with backprop's gradient; None where that is 0, as for sign units."""
    angles = report.hidden_angles(row)
    return math.cos(math.radians(statistics.median(angles))) if angles else None
