"""Reproduces a table of the paper, row after row. Stop it whenever you like: the same command goes on.

  python -m launch.reproduce --experiment=mlp
  python -m launch.reproduce --experiment=mlp --rows='fashion_mnist-rec_lra-mirror.*'

Rows are named DATASET-LEARNER-RULE-ACTIVATION. results/EXPERIMENT.json, .md and .png hold those finished so far.
"""

import importlib
import pathlib
import re

from absl import app, flags

from launch import cli
from rlra_jax.experiment.reproduce import reproduce

_EXPERIMENT = flags.DEFINE_enum('experiment', None, ['mlp'], 'Which experiment of configs/.')
_ROWS = flags.DEFINE_string('rows', '.*', 'Regular expression that the names of the rows to train match in full.')
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of the tables and pictures.')
_RUNS = flags.DEFINE_string('runs', 'runs', 'Folder of the workdirs.')
flags.mark_flag_as_required('experiment')


def main(argv: list[str]) -> None:
    """Trains the rows that are missing and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}')
    name = _EXPERIMENT.value
    experiment = importlib.import_module(f'configs.{name}')
    results = pathlib.Path(_RESULTS.value)
    pattern = re.compile(_ROWS.value)
    rows = reproduce(
        name,
        experiment,
        results=results,
        runs=pathlib.Path(_RUNS.value) / name,
        select=lambda row: pattern.fullmatch(row) is not None,
    )
    if not rows:
        raise ValueError(f'no row matches {_ROWS.value!r}')
    print((results / f'{name}.md').read_text())


if __name__ == '__main__':
    cli.run(main)
