"""A table or figure of the paper, row after row: search, train, report. Stopped, it goes on with the row it was at."""

import hashlib
import json
import logging
import math
import pathlib
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from etils import epath

from rlra_jax.experiment import report
from rlra_jax.experiment.data import Dataset, load
from rlra_jax.experiment.entries import flat, what
from rlra_jax.experiment.nonfinite import BadDataError, NonFiniteError
from rlra_jax.experiment.progress import progress
from rlra_jax.experiment.row_report import TABLES, write_report
from rlra_jax.experiment.storage import writing
from rlra_jax.experiment.train import train
from rlra_jax.experiment.workdir import own_workdir
from rlra_jax.parallel.distributed import leads

_LOG = logging.getLogger(__name__)
_KEYS = (  # what every report needs of a row
    *('name', 'algorithm', 'dataset', 'learner', 'rule', 'wiring', 'activation', 'num_seeds', 'epochs'),
    *('train_error_mean', 'train_error_sd', 'paper_train_error'),
    *('test_error_mean', 'test_error_sd', 'paper_test_error', 'val_error_mean'),
    *('config', 'device', 'versions'),
)
_ALIKE = {'learner.gap': (None, 2)}  # values that mean the same; older rows have what None stands for


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

    Raises:
      NonFiniteError: losses of some rows were not finite; says of which, after all others are trained.
    """
    path = results / f'{name}.json'
    done = _finished(path)
    rows = {row['name']: row for row in experiment.rows()}
    waiting = [key for key in rows if key not in done and select(key)]
    if unknown := [key for key in done if key not in rows]:
        _LOG.warning('kept, though %s has no such rows: %s; remove them from %s to drop them', name, unknown, path)
    _tell_of_old(path, [done[key] for key in rows if key in done and select(key)], experiment, runs, quick)
    if leads():
        with writing(results):  # told before anything is trained
            results.mkdir(parents=True, exist_ok=True)
            if done and not all(path.with_suffix(suffix).exists() for suffix in TABLES):
                write_report(path, _in_order(done, rows), experiment)
    datasets: dict[Any, Dataset] = {}  # by where they come from
    failed: dict[str, NonFiniteError] = {}
    for key in progress(waiting, name, total=len(waiting), unit='row'):
        small = {**experiment.QUICK, **rows[key].get('quick', {})} if quick else None
        try:
            row = _row(name, rows[key], experiment, runs, datasets, small)
        except BadDataError:  # which other rows would meet, too
            raise
        except NonFiniteError as diverged:
            _LOG.warning('row %s diverged: %s', key, diverged)
            failed[key] = diverged
            continue
        done = {**_finished(path), key: row}  # read anew: another process may have trained other rows meanwhile
        if leads():
            write_report(path, _in_order(done, rows), experiment)
    if failed:
        raise NonFiniteError('; '.join(f'row {key} diverged: {diverged}' for key, diverged in failed.items()))
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


def _in_order(done: dict[str, dict[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    """Finished rows as an experiment names them; behind them those that it no longer has, which took hours to train."""
    return [done[key] for key in dict.fromkeys([*names, *done]) if key in done]


def _tell_of_old(
    path: pathlib.Path, kept: Sequence[dict[str, Any]], experiment: Any, runs: epath.Path, quick: bool
) -> None:
    """Warns of rows that would not be trained so today."""
    wanted = {row['name']: _configs(row, experiment, quick) for row in experiment.rows()}
    why = {
        'another config': [row for row in kept if not _is_one_of(flat(row['config']), wanted[row['name']])],
        'other code': [row for row in kept if report.is_other_code({'code_sha256': None, **row}, report.code_sha256())],
    }
    for reason, old in why.items():
        if old:  # a finished run in its folder would give the same row again
            folders = [str(folder) for row in old if (folder := own_workdir(runs, row['config'])).exists()]
            what = f'{path}, and the folders {folders},' if folders else path
            names = [row['name'] for row in old]
            _LOG.warning('kept, though %s made them: %s; remove them from %s to train anew', reason, names, what)


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
    datasets: dict[Any, Dataset],
    quick: dict[str, Any] | None,
) -> dict[str, Any]:
    """Searches the row's grid, if it has several points, and trains the winner on all seeds."""

    def run(options: dict[str, Any]) -> tuple[dict[str, Any], epath.Path]:
        config = experiment.get_config(_argument(options))
        source = config.dataset, config.data_dir or None, config.bad_examples
        if source not in datasets:
            datasets[source] = load(*source)
        workdir = own_workdir(runs, config)
        return train(config, workdir, datasets[source]), workdir

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
        'step_ms': _step_ms(result),
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


def _step_ms(result: dict[str, Any]) -> float | None:
    """Mean time of a training step, which all seeds take together; runs of older versions did not measure it."""
    seconds = result.get('watched', {}).get('step_seconds')
    return None if seconds is None else 1000 * seconds


def _wiring(learner: dict[str, Any]) -> str | None:
    if 'through' in learner:
        return f'{learner["wiring"]}, through {learner["through"]}'
    if learner.get('block'):
        return f'{learner["wiring"]} that end with {", ".join(learner["block"])}'
    size = learner.get('modules_per_block', 1)
    return learner.get('wiring') if size == 1 else f'{learner["wiring"]} by {size}'


def _argument(options: dict[str, Any]) -> str:
    return ','.join(f'{key}={value}' for key, value in options.items())
