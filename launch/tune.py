"""Searches error pathways and rates by Optuna. Stop it whenever you like: the same command goes on.

  python -m launch.tune --config=digits:epochs=20,num_seeds=3 --trials=40
  python -m launch.tune --config=mnist:epochs=5 --trials=60 --cost=flops --max_levels=2

STUDY/front.md, .json and pictures hold the trials with the lowest validation error for their cost, and what to write
behind the colon of --config to train them again. `pip install 'rlra_jax[tune]'` brings Optuna.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator

from absl import app, flags

from rlra_jax.experiment import front
from rlra_jax.experiment.storage import local_path
from rlra_jax.experiment.tune import tune

from . import cli, config_file

config_file.define()
_STUDY = flags.DEFINE_string('study', None, 'Folder of the study and its runs. Default: runs/tune/DATA.')
_TRIALS = flags.DEFINE_integer('trials', 40, 'How many to train, with those that are there already.', lower_bound=1)
_COST = flags.DEFINE_enum('cost', 'synapses', list(front.COSTS), 'What is weighed against validation error.')
_MOST = {
    name: flags.DEFINE_integer(f'max_{name}', None, f'Budget of a trial: {about}.', lower_bound=1)
    for name, about in front.COSTS.items()
}
_SEED = flags.DEFINE_integer('seed', 0, 'Of the draws.', lower_bound=0)


def main(argv: list[str]) -> None:
    """Trains the trials that are missing, and prints the front."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}; config entries are set by --config.key=value')
    config = config_file.given_config()
    folder = local_path(_STUDY.value or f'runs/tune/{config.dataset}')
    budget = {name: flag.value for name, flag in _MOST.items() if flag.value is not None}
    options = {'trials': _TRIALS.value, 'cost': _COST.value, 'budget': budget, 'seed': _SEED.value}
    with _quiet():
        found = tune(config, folder, **options)
    if found.trials:
        print(front.table(found.trials, _COST.value).markdown())
    print(f'Everything else: {folder}')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Only warnings of single runs, each of which would tell of itself at length."""
    loggers = [logging.getLogger(f'rlra_jax.experiment.{name}') for name in ('train', 'metrics', 'workdir')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
