"""CIFAR-10, preprocessed as in the paper, and learners on a ResNet-18: `launch.reproduce --experiment=cifar10`.

  python -m launch.train --config=configs/cifar10.py
  python -m launch.train --config=configs/cifar10.py:model=resnet18,learner=backprop

The model is a plain network of six convolutions unless `model=` names another, such as resnet18 or presnet18; residual
networks see crops and mirror images and compute in bfloat16. The experiment's rows are backprop, its rivals and
several wirings of rec-LRA, each with three rates, searched for 5 epochs with one seed. Meant for a GPU; --quick trains
a thin network on a part of the data, on a CPU in hours.
"""

from typing import Any

from . import common

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
RATES = (1e-3, 3e-4, 3e-3)
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

REVERSE = {'learner.wiring': 'reverse', **common.NEIGHBOURS}
KOLEN_POLLACK = {  # what E and W differ by at first decays
    'optimizer.weight_decay': 1e-4,
    'synapse_optimizer.name': 'adam',
    'synapse_optimizer.weight_decay': 1e-4,
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
    found: dict[str, dict[str, Any]] = {name: {} for name in ('BP', 'KP', 'WM', 'DFA')}
    found |= {f'rLRA-{name}': {'learner.wiring': name} for name in ('modules', 'direct')}
    found['rLRA-reverse'] = REVERSE
    for size in (2, 4, 6):  # of the network's eight modules
        found[f'rLRA-modules-by-{size}'] = {'learner.wiring': 'modules', 'learner.modules_per_block': size}
    found['rLRA-reverse-sign'] = {**REVERSE, 'model.phi': 'sign', 'learner.surrogate': 'tanh'}
    found['rLRA-reverse-kp'] = {'learner.wiring': 'reverse', 'rule': 'kp', **KOLEN_POLLACK}
    return [_row(name, own) for name, own in found.items()]


def _row(name: str, own: dict[str, Any]) -> dict[str, Any]:
    algorithm = name.partition('-')[0]
    options = {'model': 'resnet18', 'num_seeds': 3, 'diagnostics': True, **LEARNERS[algorithm], **own}
    quick = {'learner.mirror_every': 2} if own else {}  # of few steps
    grid = common.rates(RATES, follow=name in ('KP', 'rLRA-reverse-kp'))
    return common.row(f'resnet18-{name}', algorithm, options, grid) | {'quick': quick}
