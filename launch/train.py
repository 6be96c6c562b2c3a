"""Trains one learner on one data set, or goes on where the same command stopped.

python -m launch.train --config=digits
python -m launch.train --config=mnist:learner=backprop,epochs=5 --config.optimizer.learning_rate=5e-4
python -m launch.train --config=digits --list_config  # every key, with its meaning
"""

import functools

from absl import app, flags

from rlra_jax.experiment.report import table
from rlra_jax.experiment.storage import open_path
from rlra_jax.experiment.train import train
from rlra_jax.experiment.workdir import own_workdir
from rlra_jax.parallel.distributed import leads

from . import cli, config_file

config_file.define()
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results go, and where a stopped run is found again. Default: runs/DATA-LEARNER-HASH.'
)
_PROFILE = flags.DEFINE_integer(
    'profile', 0, 'Traces so many steps into WORKDIR/profile before it trains; xprof opens that.', lower_bound=0
)
_LIST_CONFIG = flags.DEFINE_bool(
    'list_config', False, 'Tells every key of the config with its meaning, and trains nothing.'
)
flags.adopt_module_key_flags(cli)


def main(argv: list[str]) -> None:
    """Trains, and prints the errors reached."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}; config entries are set by --config.key=value')
    if _LIST_CONFIG.value:
        print(config_file.listing())
        return
    config = config_file.given_config()
    workdir = open_path(_WORKDIR.value) if _WORKDIR.value else own_workdir('runs', config)
    result = train(config, workdir, profile=_PROFILE.value)
    if leads():
        print(table([result]))
        print(f'Everything else: {workdir}')


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
