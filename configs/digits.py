"""scikit-learn's digits, embedded: a first run in seconds, without a download."""

from . import common


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument, width=128, depth=3)
    config.epochs = 60
    config.optimizer.learning_rate = 1e-3
    config.num_seeds = 10
    config.checkpoint_every = 10
    return common.override(config, options)
