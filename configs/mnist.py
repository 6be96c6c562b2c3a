"""MNIST, the paper's 5 x 256 network."""

from . import common


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument)
    config.dataset = 'mnist'
    config.num_seeds = 3
    return common.override(config, options)
