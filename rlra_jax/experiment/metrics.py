"""Metrics as they come, once an epoch: metrics.csv, TensorBoard events, a progress bar or log lines."""

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
from rlra_jax.parallel.distributed import leads

_LOG = logging.getLogger(__name__)
FIELDS = ('train_loss', 'train_error', 'val_loss', 'val_error', 'val_top5_error')  # losses in nats, errors in %
COLUMNS = ('epoch', 'seed', *FIELDS, 'seconds')  # seconds: of the epoch, all seeds together


class MetricsLog:
    """Writes one row per epoch and seed, if this process leads.

    Rows of epochs after `resume_from` are dropped: they will be run again. `further` names columns beside FIELDS, such
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
    ):
        self._seeds = seeds
        self._fields = (*FIELDS, *further)
        self._columns = (*COLUMNS, *WATCHED, *further)
        self._path = workdir / 'metrics.csv'
        self._rows = [row for row in read_metrics(self._path) if row['epoch'] <= resume_from] if leads() else []
        if leads() and len(self._rows) != resume_from * len(seeds):
            _LOG.warning(
                '%s lacks rows of the %d epochs done: curves and times will leave them out', self._path, resume_from
            )
        self._save()
        self._events = None
        if leads() and is_local(workdir):
            with writing(workdir / 'tensorboard'):
                self._events = Events(workdir / 'tensorboard', purge_from=resume_from + 1)
        elif leads():
            _LOG.warning('TensorBoard events are written into local folders only: %s goes without', workdir)
        hidden = not (leads() and sys.stderr.isatty())
        self._bar = tqdm(total=epochs, initial=resume_from, unit='epoch', disable=hidden, dynamic_ncols=True)
        self._epochs = epochs
        self._lasted: list[float] = []  # seconds of each epoch of this sitting

    @property
    def seconds(self) -> float:
        """Training time of all epochs so far, those of earlier sittings included."""
        return sum(row['seconds'] for row in self._rows if row['seed'] == self._seeds[0])

    @property
    def watched(self) -> dict[str, float]:
        """The means of what was watched over all epochs, the most of bytes; without what no device told."""
        told = {name: [row.get(name, math.nan) for row in self._rows] for name in WATCHED}
        kept = {name: [value for value in values if math.isfinite(value)] for name, values in told.items()}
        return {n: max(v) if n == 'peak_bytes' else float(np.mean(v)) for n, v in kept.items() if v}

    def write(
        self, epoch: int, metrics: dict[str, np.ndarray], seconds: float, watched: Mapping[str, float] | None = None
    ) -> None:
        """Records an epoch; each of FIELDS, and of those `further`, is an array over seeds; `watched`, of all seeds."""
        watched = watched or {}
        rows = [
            {
                'epoch': epoch,
                'seed': seed,
                **{name: float(metrics[name][i]) for name in self._fields},
                'seconds': seconds,
                **watched,
            }
            for i, seed in enumerate(self._seeds)
        ]
        self._rows += rows
        self._save()
        means = {name: float(np.mean(metrics[name])) for name in self._fields}
        if self._events is not None:
            with writing(self._path.parent / 'tensorboard'):
                finite = {name: value for name, value in watched.items() if math.isfinite(value)}
                self._events.write({**means, **finite}, epoch)
        summary = f'loss {means["train_loss"]:.4f}, error {means["train_error"]:.2f} %, val {means["val_error"]:.2f} %'
        if 'val_bits' in means:
            summary += f', {means["val_bits"]:.3f} bits a character'
        self._bar.set_postfix_str(summary, refresh=False)
        self._bar.update()
        if leads() and self._bar.disable:
            self._lasted.append(seconds)
            left = f', {time_left(float(np.mean(self._lasted)), self._epochs - epoch)}' if epoch < self._epochs else ''
            _LOG.info('epoch %d/%d: %s%s', epoch, self._epochs, summary, left)

    def _save(self) -> None:
        """Writes all rows through a temporary file: a kill costs none, and buckets know no appending."""
        if not leads():
            return
        text = io.StringIO(newline='')
        writer = csv.DictWriter(text, self._columns, restval=math.nan)  # older rows may lack what is watched
        writer.writeheader()
        writer.writerows(self._rows)
        scratch = self._path.with_suffix('.part')
        with writing(self._path):
            scratch.write_bytes(text.getvalue().encode('utf-8'))
            scratch.replace(self._path)

    def close(self) -> None:
        """Flushes everything."""
        self._bar.close()
        if self._events is not None:
            with writing(self._path.parent / 'tensorboard'):
                self._events.close()


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
