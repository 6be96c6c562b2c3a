"""Trains one learner on one data set, or goes on where the same command stopped.

  python -m launch.train --config=configs/digits.py
  python -m launch.train --config=configs/mnist.py:learner=backprop,epochs=5 --config.optimizer.learning_rate=5e-4

Keys of the config: see configs/common.py.
"""

import hashlib
import logging
import pathlib
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from rlra_jax.experiment.diagnose import NonFiniteError
from rlra_jax.experiment.report import table
from rlra_jax.experiment.train import train

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file, such as configs/digits.py:learner=backprop.')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results go, and where a stopped run is found again. Default: runs/DATA-LEARNER-HASH.'
)
flags.mark_flag_as_required('config')


def main(argv: list[str]) -> None:
    """Trains, and prints the errors reached."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}; config entries are set by --config.key=value')
    verbose = flags.FLAGS['verbosity'].present
    if not verbose:
        absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells much at INFO
    logging.getLogger('rlra_jax').setLevel(logging.INFO)
    config = _CONFIG.value
    digest = hashlib.sha256(config.to_json_best_effort(sort_keys=True).encode()).hexdigest()[:8]
    default = pathlib.Path('runs') / f'{config.dataset}-{config.learner.name}-{digest}'
    workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else default
    try:
        result = train(config, workdir)
    except (ValueError, FileNotFoundError, ModuleNotFoundError, NonFiniteError) as error:
        if verbose:
            raise
        sys.exit(f'{type(error).__name__}: {error}\n(--verbosity=0 shows where it was raised)')
    print(table([result]))
    print(f'Everything else: {workdir}')


if __name__ == '__main__':
    app.run(main)
