"""What a finished run leaves for people and programs: result.json, tables, and its curves as numbers."""

import ast
import functools
import hashlib
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

import rlra_jax
from rlra_jax.experiment.checkout import commit
from rlra_jax.experiment.entries import to_json
from rlra_jax.experiment.labels import run_labels
from rlra_jax.experiment.metrics import COLUMNS, read_metrics
from rlra_jax.experiment.storage import writing
from rlra_jax.experiment.text import measures_of
from rlra_jax.tables import Table

_BESIDE = ('configs', 'launch')  # lie beside the package in a clone, and inside where it is installed
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
ERRORS = ('train_error', 'val_error', 'test_error')
TOP5_ERRORS = ('train_top5_error', 'val_top5_error', 'test_top5_error')
LOSSES = ('train_loss', 'val_loss', 'test_loss')  # of texts, with what `text.measures_of` makes of them
WHAT_BEST_EPOCHS_ARE = 'Best epoch: the median of these epochs, rounded down.'


class Measure(NamedTuple):
    """What runs on data of a kind are judged by, the lower the better, and what is told of them."""

    name: str  # of its entries: 'val_NAME', 'test_NAME_sd'
    label: str  # with its unit
    entries: tuple[str, ...]  # all that is told, of which there are means and standard deviations over seeds
    what: str  # these, in a sentence


_ERROR = Measure(
    'error',
    'error (%)',
    ERRORS,
    'Errors in %, of each seed at its epoch of the lowest validation error; mean ± standard deviation over seeds.',
)
_BITS = Measure(
    'bits',
    'bits per character',
    (*ERRORS, *LOSSES, *measures_of(dict.fromkeys(LOSSES, 0.0))),
    'Of texts, losses in nats and in bits per character, perplexities and errors in %, of each seed at its epoch of '
    'the lowest validation loss; mean ± standard deviation over seeds.',
)


def measure_of(told: Mapping[str, Any]) -> Measure:
    """What a result, a row of an experiment or curves are judged by: errors, but of a text bits per character."""
    return _BITS if {'test_bits', 'test_bits_mean', 'val_bits_mean'} & set(told) else _ERROR


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {'python': platform.python_version(), 'rlra_jax': rlra_jax.__version__, **packages}


@functools.cache
def code_sha256() -> str:
    """Of this package's programs, comments and layout aside, as they were at the first call.

    A clone has the same as a wheel of it: configs and launchers, which lie beside the package there, do not count.
    """
    root = pathlib.Path(rlra_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob('*.py') if path.relative_to(root).parts[0] not in _BESIDE):
        digest.update(f'{path.relative_to(root).as_posix()}\n{ast.dump(ast.parse(path.read_bytes()))}\n'.encode())
    return digest.hexdigest()


def is_other_code(made: Mapping[str, Any], sha256: str) -> bool:
    """Whether what made something, and noted its `code_sha256` and `versions`, is code of another hash than sha256.

    Another Python's cannot be told, since it parses the same code to another tree. A hash of None is of older code.
    """
    here = platform.python_version()
    there = (made.get('versions') or {}).get('python', here)
    alike = there.split('.')[:2] == here.split('.')[:2]
    noted = made.get('code_sha256', sha256)
    return noted is None or (alike and noted != sha256)


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
    """As `write_text`."""
    write_text(path, to_json(value, indent=2) + '\n')


def write_text(path: epath.Path | pathlib.Path, text: str) -> None:
    """Writes through a temporary file, so that a kill leaves the old file or the new one."""
    scratch = path.with_name(f'{path.name}.{os.getpid()}.tmp')  # another process may write the same file
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
    module, script = getattr(getattr(main, '__spec__', None), 'name', None), pathlib.Path(sys.argv[0])
    alone = f'python {script}' if script.suffix == '.py' else script.name  # a file, or a console script
    program = f'python -m {module}' if module else alone
    return f'{program} {shlex.join(sys.argv[1:])}'.rstrip()


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


def table(results: Sequence[dict[str, Any]], workdirs: Sequence[os.PathLike[str]] = ()) -> str:
    """`error_table` as Markdown."""
    return error_table(results, workdirs).markdown()


def error_table(results: Sequence[dict[str, Any]], workdirs: Sequence[os.PathLike[str]] = ()) -> Table:
    """Results side by side, named as `run_labels` does, and what the numbers are."""
    texts = any('test_bits' in result for result in results)
    head = ('learner', 'data', 'train error', 'validation error', 'test error')
    head += (*(('test bits', 'perplexity') if texts else ()), 'seeds', 'best epoch')
    rows = []
    for result, label in zip(results, run_labels(results, workdirs), strict=True):
        seeds = len(result['per_seed'])
        cells = [with_spread(result[name], result[f'{name}_sd'], seeds) for name in ERRORS]
        cells += [_spread_of(result, f'test_{name}') for name in ('bits', 'perplexity') if texts]
        rows.append((label, data_of(result), *cells, str(seeds), str(result['best_epoch'])))
    what = dict.fromkeys(measure_of(result).what for result in results)
    return Table(head, rows, head[2:], (' '.join([*what, WHAT_BEST_EPOCHS_ARE]),))


def data_of(result: dict[str, Any]) -> str:
    """The name of the data that a run was trained on, which may be its user's own; older results name the config's."""
    return str(result.get('dataset', result['config']['dataset']))


def _spread_of(result: dict[str, Any], name: str) -> str:
    """The same of an entry that a result may lack."""
    return with_spread(result[name], result[f'{name}_sd'], len(result['per_seed']), 3) if name in result else ''


def with_spread(mean: float, sd: float, seeds: int, digits: int = 2) -> str:
    """'2.00 ± 0.31', or '2.00' of one seed, which has no spread."""
    return f'{mean:.{digits}f} ± {sd:.{digits}f}' if seeds > 1 else f'{mean:.{digits}f}'


def curves(workdir: epath.Path) -> dict[str, list[float]]:
    """Errors in %, and bits of a text, after each epoch of a finished run: means and standard deviations over seeds.

    'seconds' is the time since the start, all seeds together, without compilation and checkpoints.

    Raises:
      ValueError: naming metrics.csv, if it lacks columns, or an epoch lacks a seed.
    """
    rows = read_metrics(workdir / 'metrics.csv')
    missing = sorted({*COLUMNS} - set(rows[0])) if rows else ['rows']
    if missing:
        raise ValueError(f'{workdir / "metrics.csv"} must hold {list(COLUMNS)} of each epoch; {missing} are missing')
    epochs, seeds = (sorted({row[key] for row in rows}) for key in ('epoch', 'seed'))
    for epoch in epochs:
        if (there := sorted(row['seed'] for row in rows if row['epoch'] == epoch)) != seeds:
            raise ValueError(
                f'{workdir / "metrics.csv"} must hold one row of each of the seeds {seeds} in each epoch; '
                f'epoch {epoch} has rows of {there}'
            )
    spent = np.cumsum([next(row['seconds'] for row in rows if row['epoch'] == epoch) for epoch in epochs])
    found: dict[str, list[float]] = {'epoch': epochs, 'seconds': spent.round(3).tolist()}
    for field in [name for name in ('train_error', 'val_error', 'val_bits') if name in rows[0]]:
        values = np.array([[row[field] for row in rows if row['epoch'] == epoch] for epoch in epochs])
        found[f'{field}_mean'] = values.mean(axis=1).round(4).tolist()
        found[f'{field}_sd'] = (
            (values.std(axis=1, ddof=1) if values.shape[1] > 1 else 0 * values[:, 0]).round(4).tolist()
        )
    return found


def diagnostics(workdir: epath.Path) -> dict[str, list[float]]:
    """'epoch', and each diagnostic after each epoch of a finished run, averaged over seeds; without those of no value.

    An angle to no gradient, as of sign units, has none.
    """
    rows = read_metrics(workdir / 'metrics.csv')
    epochs = sorted({row['epoch'] for row in rows})
    found: dict[str, list[float]] = {'epoch': epochs}
    for name in [name for name in rows[0] if '/' in name] if rows else []:
        means = [float(np.mean([row[name] for row in rows if row['epoch'] == epoch])) for epoch in epochs]
        if np.isfinite(means[-1]):
            found[name] = means
    return found


def last_diagnostics(workdir: epath.Path) -> dict[str, float]:
    """Each diagnostic after the last epoch of a finished run, averaged over seeds; not the angles to no gradient."""
    return {name: means[-1] for name, means in diagnostics(workdir).items() if name != 'epoch'}


def hidden_angles(row: Mapping[str, Any]) -> list[float]:
    """Of a table's row: each hidden region's angle to backprop's gradient in degrees, where that was measured."""
    found = row.get('diagnostics', {})
    return [angle for name, angle in found.items() if name.startswith('angle/') and name != 'angle/output']
