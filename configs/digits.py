"""scikit-learn's digits, embedded: a first run in seconds, without a download."""

from configs import common


def get_config(argument: str = ''):
    """`learner=` picks the algorithm; every other key of the config can be given too."""
    options = common.parse(argument)
    config = common.base(options.pop('learner', 'rec_lra'))
    config.model.widths = (128,) * 3
    config.epochs = 60
    config.num_seeds = 10
    config.checkpoint_every = 10
    return common.override(config, options)
