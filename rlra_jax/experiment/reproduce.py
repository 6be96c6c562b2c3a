"""A table of the paper, row after row: search, train, report. Stopped, it goes on with the row it was at."""

import json
import logging
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from rlra_jax.experiment import report
from rlra_jax.experiment.data import Dataset, load
from rlra_jax.experiment.train import train

_LOG = logging.getLogger(__name__)


def reproduce(
    name: str,
    experiment: Any,
    *,
    results: pathlib.Path,
    runs: pathlib.Path,
    select: Callable[[str], bool] = lambda row: True,
) -> list[dict[str, Any]]:
    """Trains the rows of an experiment that results/NAME.json does not hold yet, and reports after each.

    Args:
      name: of the experiment; names the files.
      experiment: a module such as `configs/mlp.py`, with get_config, rows and SEARCH.
      results: folder of NAME.json, NAME.md and NAME.png.
      runs: folder of the rows' workdirs, from which a stopped row goes on.
      select: which rows to train, by their names 'DATASET-FAMILY'.

    Returns:
      All rows finished so far, in the experiment's order.
    """
    path = results / f'{name}.json'
    done = {row['name']: row for row in json.loads(path.read_text())['rows']} if path.exists() else {}
    rows = {f'{row["options"]["dataset"]}-{row["family"]}': row for row in experiment.rows()}
    waiting = [key for key in rows if key not in done and select(key)]
    datasets: dict[str, Dataset] = {}
    for key in tqdm(waiting, desc=name, unit='row', disable=None):
        done[key] = _row(key, name, rows[key], experiment, runs, datasets)
        finished = [done[other] for other in rows if other in done]
        write_report(path, finished)
    return [done[key] for key in rows if key in done]


def _row(
    key: str, name: str, row: dict[str, Any], experiment: Any, runs: pathlib.Path, datasets: dict[str, Dataset]
) -> dict[str, Any]:
    """Searches the row's family, unless another row of it has, and trains the winner on all seeds."""

    def run(options: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
        config = experiment.get_config(_argument(options))
        if config.dataset not in datasets:
            datasets[config.dataset] = load(config.dataset, config.data_dir or None)
        return train(config, workdir, datasets[config.dataset])

    tried = []
    for i, point in enumerate(row['grid']):
        result = run({**row['options'], **point, **experiment.SEARCH}, runs / 'search' / f'{row["family"]}-{i}')
        tried.append({**point, 'val_error': result['val_error']})
        _LOG.info('search %s %s: validation error %.2f %%', row['family'], point, result['val_error'])
    best = row['grid'][min(range(len(tried)), key=lambda i: tried[i]['val_error'])]
    options = {**row['options'], **best}
    result = run(options, runs / key)
    _LOG.info('%s: test error %.2f %%', key, result['test_error'])
    learner = result['config']['learner']
    return {
        'name': key,
        'dataset': result['config']['dataset'],
        'learner': learner['name'],
        'activation': result['config']['model']['phi'],
        'wiring': learner.get('wiring'),
        'rule': learner.get('rule'),
        'seeds': [seed['seed'] for seed in result['per_seed']],
        'epochs': result['epochs'],
        **{f'{error}_mean': result[error] for error in report.ERRORS},
        **{f'{error}_sd': result[f'{error}_sd'] for error in report.ERRORS},
        'paper_test_error': row['paper_test_error'],
        'command': f'python -m launch.train {shlex.quote(f"--config=configs/{name}.py:{_argument(options)}")}',
        'search': tried,
        'config': result['config'],
        'data_sha256': result['data_sha256'],
        'versions': result['versions'],
        'device': result['device'],
    }


def _argument(options: dict[str, Any]) -> str:
    return ','.join(f'{key}={value}' for key, value in options.items())


def write_report(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """NAME.json, and a table and a picture beside it."""
    report.write_json(path, {'rows': list(rows)})
    lines = [
        f'# {path.stem}: errors in %, mean ± sd over seeds, at the epoch of the best validation error',
        '',
        '| data | learner | rule | wiring | activation | train | test | paper test | seeds | epochs |',
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for row in rows:
        paper = '' if row['paper_test_error'] is None else f'{row["paper_test_error"]:.2f}'
        cells = [row['dataset'], row['learner'], row['rule'] or '', row['wiring'] or '', row['activation']]
        cells += [f'{row["train_error_mean"]:.2f}', f'{row["test_error_mean"]:.2f} ± {row["test_error_sd"]:.2f}']
        cells += [paper, str(len(row['seeds'])), str(row['epochs'])]
        lines.append(f'| {" | ".join(cells)} |')
    machines = {f'{r["device"]["kind"]}, {r["device"]["cpu_cores"]} cores, jax {r["versions"]["jax"]}' for r in rows}
    lines += ['', f'On {"; ".join(sorted(machines))}. Commands, searches and data hashes: {path.name}.']
    path.with_suffix('.md').write_text('\n'.join(lines) + '\n')
    report.plot_rows(rows, path.with_suffix('.png'))
