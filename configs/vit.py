"""CIFAR-10 and a vision transformer: patches of 4 x 4 are 64 tokens.

  python -m launch.train --config=configs/vit.py
  python -m launch.train --config=configs/vit.py:learner=backprop

The wiring of rec_lra is `reverse` unless `learner.wiring=` names another. Meant for a GPU.
"""

from . import common


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument, model='vit')
    config.dataset = 'cifar10'
    config.preprocess.contrast = True
    config.augment.pad = 4
    config.augment.flip = True
    config.batch_size = 128
    config.epochs = 60
    config.model.phi = 'gelu'
    if 'dtype' in config.model:
        config.model.dtype = 'bfloat16'
    config.optimizer.learning_rate = 1e-3
    return common.override(config, {**common.neighbours(config, options, wiring='reverse'), **options})
