"""CIFAR-10, preprocessed as in the paper: global contrast normalisation and ZCA whitening.

  python -m launch.train --config=configs/cifar10.py
  python -m launch.train --config=configs/cifar10.py:model=resnet18,learner=backprop,augment.pad=4,augment.flip=True

The model is a plain network of six convolutions unless `model=` names another, such as resnet18 or presnet18.
"""

from configs import common


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument, model='cnn')
    config.dataset = 'cifar10'
    config.preprocess.contrast = True
    config.preprocess.zca = True
    config.batch_size = 100
    if config.model.name != 'cnn':
        config.batch_size = 256
        config.epochs = 60
    config.model.phi = 'relu'
    if config.learner.name == 'rec_lra':
        config.learner.wiring = 'direct'  # dense synapses between maps would be large
    config.optimizer.learning_rate = 1e-3
    return common.override(config, options)
