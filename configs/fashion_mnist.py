"""Fashion MNIST, the paper's 5 x 256 network."""

from configs import common


def get_config(argument: str = ''):
    """`learner=` picks the algorithm; every other key of the config can be given too."""
    options = common.parse(argument)
    config = common.base(options.pop('learner', 'rec_lra'))
    config.dataset = 'fashion_mnist'
    config.num_seeds = 3
    return common.override(config, options)
