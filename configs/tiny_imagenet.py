"""Tiny ImageNet (200 classes, 64 x 64): stands in for ImageNet in the paper's Table 3 where that is too large.

  python -m launch.train --config=configs/tiny_imagenet.py
  python -m launch.train --config=configs/tiny_imagenet.py:model=resnet50,learner=backprop,model.width=16

The model is a ResNet-18 unless `model=` names another. Its errors on the `validation` split are reported as test
errors, since the labels of the test split were never published; validation data is held out of the training data.
"""

from . import common


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument, model='resnet18')
    config.dataset = 'tiny_imagenet'
    config.preprocess.contrast = True  # whitening would need a matrix of 12,288 x 12,288
    config.augment.pad = 4
    config.augment.flip = True
    config.batch_size = 256
    config.epochs = 60
    config.model.phi = 'relu'
    if config.model.name.endswith(('resnet18', 'resnet50')):
        config.model.stem = 'imagenet'
    if config.learner.name == 'rec_lra':
        config.learner.wiring = 'direct'  # one level: a step costs least
    config.optimizer.learning_rate = 1e-3
    return common.override(config, options)
