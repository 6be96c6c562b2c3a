"""Metrics as they come, once an epoch: metrics.csv, other writers, a progress bar or log lines."""

import contextlib
import csv
import io
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from rlra_jax.experiment.events import Events
from rlra_jax.experiment.progress import time_left
from rlra_jax.experiment.storage import is_local, writing
from rlra_jax.experiment.watch import FIELDS as WATCHED
from rlra_jax.experiment.writers import Scalars, Writer, means
from rlra_jax.parallel.distributed import leads

_LOG = logging.getLogger(__name__)
FIELDS = ('train_loss', 'train_error', 'val_loss', 'val_error', 'val_top5_error')  # losses in nats, errors in %
COLUMNS = ('epoch', 'seed', *FIELDS, 'seconds')  # seconds: of the epoch, all seeds together


class MetricsLog:
    """Tells metrics.csv, TensorBoard and further writers of each epoch, if this process leads.

    Rows of epochs after `resume_from` are dropped: they will be run again. `further` names metrics beside FIELDS, such
    as those of diagnostics.
    """

    def __init__(
        self,
        workdir: epath.Path,
        seeds: Sequence[int],
        *,
        epochs: int,
        resume_from: int,
        further: Sequence[str] = (),
        writers: Sequence[Writer] = (),
    ):
        path, self._names, self._first_seed = workdir / 'metrics.csv', (*FIELDS, *further), seeds[0]
        self._csv = Csv(path, seeds, (*FIELDS, 'seconds', *WATCHED, *further), resume_from=resume_from)
        if leads() and len(self._csv.rows) != resume_from * len(seeds):
            _LOG.warning('%s lacks rows of the %d epochs done: curves and times will leave them out', path, resume_from)
        self._writers: list[Writer] = [self._csv]
        self._open = contextlib.ExitStack()
        if leads() and is_local(workdir):
            events = Events(workdir / 'tensorboard', purge_from=resume_from + 1)
            self._writers.append(self._open.enter_context(contextlib.closing(events)))
        elif leads():
            _LOG.warning('TensorBoard events are written into local folders only: %s goes without', workdir)
        self._writers += writers if leads() else ()
        hidden = not (leads() and sys.stderr.isatty())
        self._bar = tqdm(total=epochs, initial=resume_from, unit='epoch', disable=hidden, dynamic_ncols=True)
        self._epochs = epochs
        self._lasted: list[float] = []  # seconds of each epoch of this sitting

    @property
    def seconds(self) -> float:
        """Training time of all epochs so far, those of earlier sittings included."""
        return sum(row['seconds'] for row in self._csv.rows if row['seed'] == self._first_seed)

    @property
    def watched(self) -> dict[str, float]:
        """The means of what was watched over all epochs, the most of bytes; without what no device told."""
        told = {name: [row.get(name, math.nan) for row in self._csv.rows] for name in WATCHED}
        kept = {name: [value for value in values if math.isfinite(value)] for name, values in told.items()}
        return {n: max(v) if n == 'peak_bytes' else float(np.mean(v)) for n, v in kept.items() if v}

    def write(
        self, epoch: int, metrics: dict[str, np.ndarray], seconds: float, watched: Mapping[str, float] | None = None
    ) -> None:
        """Records an epoch; each of FIELDS, and of those `further`, is an array over seeds; `watched`, of all seeds."""
        scalars: dict[str, float | np.ndarray] = {
            **{name: np.asarray(metrics[name]) for name in self._names},
            'seconds': seconds,
            **(watched or {}),
        }
        for writer in self._writers:
            writer.write_scalars(epoch, scalars)
        mean = means(scalars)
        summary = f'loss {mean["train_loss"]:.4f}, error {mean["train_error"]:.2f} %, val {mean["val_error"]:.2f} %'
        if 'val_bits' in mean:
            summary += f', {mean["val_bits"]:.3f} bits a character'
        self._bar.set_postfix_str(summary, refresh=False)
        self._bar.update()
        if leads() and self._bar.disable:
            self._lasted.append(seconds)
            left = f', {time_left(float(np.mean(self._lasted)), self._epochs - epoch)}' if epoch < self._epochs else ''
            _LOG.info('epoch %d/%d: %s%s', epoch, self._epochs, summary, left)

    def close(self) -> None:
        """Writes what is left."""
        self._bar.close()
        self._open.close()


class Csv:
    """Rows of a file, one per step and seed; the file is whole after each step, whatever ends the process.

    Args:
      path: the file. Its rows of steps after `resume_from` are dropped: they will come again.
      seeds: in the order of the arrays.
      names: the columns beside epoch and seed.
      resume_from: the last step to keep.
    """

    def __init__(self, path: epath.Path, seeds: Sequence[int], names: Sequence[str], *, resume_from: int):
        self._path, self._seeds, self._columns = path, seeds, ('epoch', 'seed', *names)
        self.rows = [row for row in read_metrics(path) if row['epoch'] <= resume_from] if leads() else []
        self._save()

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Adds a row for each seed; a number of all seeds stands in each.

        Raises:
          OSError: the file can no longer be written.
        """
        self.rows += [
            {'epoch': step, 'seed': seed, **{name: _of_seed(value, i) for name, value in scalars.items()}}
            for i, seed in enumerate(self._seeds)
        ]
        self._save()

    def _save(self) -> None:
        """Writes all rows through a temporary file: a kill costs none, and buckets know no appending."""
        if not leads():
            return
        text = io.StringIO(newline='')
        columns = dict.fromkeys(name for row in [dict.fromkeys(self._columns), *self.rows] for name in row)
        writer = csv.DictWriter(text, columns, restval=math.nan)  # rows of other versions may have more, or lack some
        writer.writeheader()
        writer.writerows(self.rows)
        scratch = self._path.with_suffix('.part')
        with writing(self._path):
            scratch.write_bytes(text.getvalue().encode('utf-8'))
            scratch.replace(self._path)


def _of_seed(value: float | np.ndarray, index: int) -> float:
    return float(value if np.ndim(value) == 0 else np.asarray(value)[index])


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv with numbers for strings; a row that a kill cut short is left out.

    Raises:
      ValueError: naming the file, if it is damaged otherwise.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
        rows = [row for row in csv.DictReader(lines, strict=True) if all(row.values())]
        numbers = [
            {key: int(value) if key in ('epoch', 'seed') else float(value) for key, value in row.items()}
            for row in rows
        ]
        if missing := [key for key in ('epoch', 'seed') for row in numbers[:1] if key not in row]:
            raise ValueError(f'no columns {missing}')
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f'{path} cannot be read ({error}); remove that file, and nothing else: its run goes on without these rows'
        ) from error
    return numbers
