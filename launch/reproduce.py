"""Reproduces a table of the paper, row after row. Stop it whenever you like: the same command goes on.

  python -m launch.reproduce --experiment=table1
  python -m launch.reproduce --experiment=table1 --quick
  python -m launch.reproduce --experiment=mlp --rows='fashion_mnist-rec_lra-mirror.*'

Each experiment names its rows; what matches none lists them. results/EXPERIMENT.json, .md, .csv and a picture hold
those finished so far; a quick version's go to results/quick/.
"""

import functools
import re

from absl import app, flags

from rlra_jax.experiment.reproduce import reproduce
from rlra_jax.experiment.storage import local_path, open_path
from rlra_jax.parallel.distributed import leads

from . import cli, find_config

_EXPERIMENT = flags.DEFINE_enum('experiment', None, find_config.experiments(), 'Which one; rlra-list tells.')
_ROWS = flags.DEFINE_string('rows', '.*', 'Regular expression that the names of the rows to train match in full.')
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of the tables and pictures.')
_RUNS = flags.DEFINE_string('runs', 'runs', 'Folder of the workdirs.')
_QUICK = flags.DEFINE_bool(
    'quick',
    False,
    'A small version: one seed, few epochs and examples, no search. Minutes, but up to hours for residual networks.',
)
flags.adopt_module_key_flags(cli)
flags.mark_flag_as_required('experiment')


def main(argv: list[str]) -> None:
    """Trains the rows that are missing and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}')
    name = _EXPERIMENT.value
    experiment = find_config.load(find_config.find(name))
    results, runs = local_path(_RESULTS.value), open_path(_RUNS.value) / 'reproduce'
    if _QUICK.value:
        results, runs = results / 'quick', runs / 'quick'
    try:
        pattern = re.compile(_ROWS.value)
    except re.error as error:
        raise ValueError(f'--rows must be a regular expression; got {_ROWS.value!r}: {error}') from error
    if not any(pattern.fullmatch(row['name']) for row in experiment.rows()):
        raise ValueError(f'no row matches {_ROWS.value!r}; there are {[row["name"] for row in experiment.rows()]}')
    reproduce(
        name,
        experiment,
        results=results,
        runs=runs,
        select=lambda row: pattern.fullmatch(row) is not None,
        quick=_QUICK.value,
    )
    if leads():
        print((results / f'{name}.md').read_text(encoding='utf-8'))


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
