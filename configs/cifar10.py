"""CIFAR-10, preprocessed as in the paper, and learners on a ResNet-18: `launch.reproduce --experiment=cifar10`.

  python -m launch.train --config=configs/cifar10.py
  python -m launch.train --config=configs/cifar10.py:model=resnet18,learner=backprop

The model is a plain network of six convolutions unless `model=` names another, such as resnet18 or presnet18; residual
networks see crops and mirror images and compute in bfloat16. The experiment's rows are backprop, its rivals and three
wirings of rec-LRA, each with two rates, searched for 5 epochs with one seed. Meant for a GPU; --quick trains a thin
network on a part of the data, on a CPU in hours.
"""

from typing import Any

from configs import common

SEARCH = {'epochs': 5, 'num_seeds': 1}
QUICK = {
    'num_seeds': 1,
    'train_examples': 5000,
    'epochs': 8,
    'batch_size': 100,
    'model.width': 16,
    'model.dtype': 'float32',
}
COLUMNS = ('step ms', 'median cosine')
CURVES = ('epoch', 'seconds')
GRID = [{'optimizer.learning_rate': rate} for rate in (1e-3, 3e-4)]
LEARNERS: dict[str, dict[str, Any]] = {
    'BP': {'learner': 'backprop'},
    'WM': {'learner': 'weight_mirror'},
    'TP': {'learner': 'target_prop'},
    'FA': {'learner': 'feedback_alignment'},
    'DFA': {'learner': 'direct_feedback_alignment'},
    'KP': {'learner': 'kolen_pollack'},
    'SS': {'learner': 'sign_symmetry'},
    'rLRA': {'learner': 'rec_lra', 'rule': 'mirror', 'learner.wiring': 'modules', 'learner.mirror_every': 8},
}


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument, model='cnn')
    config.dataset = 'cifar10'
    config.preprocess.contrast = True
    config.preprocess.zca = True
    config.batch_size = 100
    if 'resnet' in config.model.name:
        config.batch_size = 256
        config.epochs = 60
        config.augment.pad = 4
        config.augment.flip = True
        config.model.dtype = 'bfloat16'
    config.model.phi = 'relu'
    if config.learner.name == 'rec_lra':
        config.learner.wiring = 'direct'  # one level: a step costs least
    config.optimizer.learning_rate = 1e-3
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    found: list[tuple[str, dict[str, Any]]] = [('BP', {}), ('KP', {}), ('WM', {}), ('DFA', {})]
    found += [('rLRA', {'learner.wiring': wiring}) for wiring in ('modules', 'direct', 'reverse')]
    shared = {'model': 'resnet18', 'num_seeds': 3, 'diagnostics': True}
    return [
        common.row(
            '-'.join(('resnet18', algorithm, *own.values())),
            algorithm,
            {**shared, **LEARNERS[algorithm], **own},
            GRID,
        )
        | {'quick': {'learner.mirror_every': 2} if own else {}}  # of few steps
        for algorithm, own in found
    ]
