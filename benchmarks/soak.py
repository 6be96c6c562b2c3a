"""Whether a long run grows: resident memory, open files and threads over many epochs with a checkpoint after each.

  python -m benchmarks.soak --epochs=20000

Trains a thin network on some digits and looks at its own process every so many epochs. Writes results/soak.json.
"""

import contextlib
import io
import logging
import pathlib
import tempfile
from typing import Any

import psutil
from absl import flags

from benchmarks.cases import replace_rows
from configs import common, digits
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.data import Dataset, first_examples, load
from rlra_jax.experiment.train import train

_LOOKS = 20
_EPOCHS = flags.DEFINE_integer('epochs', 20000, 'How many epochs.', lower_bound=_LOOKS)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of soak.json.')
_CONFIG = {
    **{'num_seeds': 1, 'model.widths': (16,), 'checkpoint_every': 1},
    **{'optimizer.schedule': 'constant', 'synapse_optimizer.schedule': 'constant'},
}


class _Looks(logging.Handler):
    """Looks at this process whenever the trainer tells of so many epochs more."""

    def __init__(self, every: int):
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self._every, self._epoch = every, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Counts the epochs that are told of."""
        self._epoch += record.getMessage().startswith('epoch ')
        if self._epoch == (len(self.rows) + 1) * self._every:
            process = psutil.Process()
            seen = {'resident_bytes': process.memory_info().rss, 'open_files': process.num_fds()}
            self.rows.append({'epoch': self._epoch, **seen, 'threads': process.num_threads()})


def measure(workdir: pathlib.Path, data: Dataset, epochs: int, looks: int) -> list[dict[str, Any]]:
    """{'epoch', 'resident_bytes', 'open_files', 'threads'} at so many moments of a run, as far apart as can be."""
    handler, logger = _Looks(epochs // looks), logging.getLogger('rlra_jax')
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # in a terminal the trainer would draw a bar, and tell nothing
            train(common.override(digits.get_config(), {**_CONFIG, 'epochs': epochs}), workdir, data)
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    return handler.rows


def main(argv: list[str]) -> None:
    """Measures, and prints how the process was in the middle and at the end."""
    del argv
    data = first_examples(load('digits'), 100)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(pathlib.Path(folder), data, _EPOCHS.value, _LOOKS)
    rows = [{'case': 'digits', **row} for row in rows]
    replace_rows(pathlib.Path(_RESULTS.value) / 'soak.json', 'digits', rows, report.provenance(data.sha256))
    print(rows[len(rows) // 2 - 1], rows[-1], sep='\n')


if __name__ == '__main__':
    cli.run(main)
