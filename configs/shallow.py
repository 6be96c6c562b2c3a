"""Readout skips and shallow error pathways: `launch.reproduce --experiment=shallow`.

  python -m launch.train --config=configs/shallow.py:learner=backprop,model.readout=all,model.cells=2

A ResNet-18 of 16 channels on 5,000 images of CIFAR-10, 8 epochs and 3 seeds for every row, so that a CPU trains them
all in a day. Networks are plain or have readout skips from stem and blocks (`skips-C`, of C x C cells). rLRA is the
paper's scheme: blocks from the output, then inside the blocks; all that follows the forward path starts as W and takes
its steps. On the plain network mirrors learn what comes from the output afar, on the others nothing does, unless the
row says `rest`. `overlap` hands errors one block further down; in `quarter` a quarter of the channels send inside
blocks, those of the largest errors. --quick trains two blocks for an epoch, to see rows run.
"""

from typing import Any

from . import cifar10, common

SEARCH: dict[str, Any] = {}
QUICK = {
    'num_seeds': 1,
    'train_examples': 500,
    'epochs': 1,
    'batch_size': 50,
    'model.width': 4,
    'model.blocks': (1, 1),
}
COLUMNS = ('row',)
CURVES = ('epoch', 'seconds')
MODULES = {'learner': 'rec_lra', 'rule': 'kp', 'learner.wiring': 'modules', 'learner.kp_equal': True}
FOLLOW = {'synapse_optimizer.name': 'adam', 'synapse_optimizer.learning_rate': 1e-3}
REST = {
    'learner.rest': 'mirror',
    'learner.synapse_std': 1e-4,
    'synapse_optimizer.learning_rate': 0.5,
}
OVERLAP = {'learner.overlap': 1}


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    names, options = common.split(argument)
    config = cifar10.get_config(f'{names},model=resnet18' if 'model=' not in names else names)
    config.train_examples = 5000
    config.epochs = 8
    config.batch_size = 100
    config.num_seeds = 3
    if 'resnet' in config.model.name:
        config.model.width = 16
        config.model.dtype = 'float32'
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    found: dict[str, dict[str, Any]] = {
        'BP': cifar10.LEARNERS['BP'],
        'DFA': cifar10.LEARNERS['DFA'],
        'rLRA-reverse': {**cifar10.LEARNERS['rLRA'], **cifar10.REVERSE, 'learner.mirror_every': 2},
        'rLRA': {**MODULES, **REST},
        'rLRA-overlap': {**MODULES, **REST, **OVERLAP},
        'DFA-skips-2': {**cifar10.LEARNERS['DFA'], **_skips(2)},
        'rLRA-skips-2-rest': {**MODULES, **REST, **_skips(2)},
        'rLRA-skips-2-rest-overlap': {**MODULES, **REST, **OVERLAP, **_skips(2)},
    }
    found['rLRA-skips-4-quarter'] = {**MODULES, **FOLLOW, **_skips(4), 'learner.sends': 0.25}
    for cells in (1, 2, 4):
        found[f'BP-skips-{cells}'] = {**cifar10.LEARNERS['BP'], **_skips(cells)}
        found[f'rLRA-skips-{cells}'] = {**MODULES, **FOLLOW, **_skips(cells)}
        found[f'rLRA-skips-{cells}-overlap'] = {**MODULES, **FOLLOW, **OVERLAP, **_skips(cells)}
    return [common.row(name, name.partition('-')[0], {'model': 'resnet18', **own}, [{}]) for name, own in found.items()]


def _skips(cells: int) -> dict[str, Any]:
    return {'model.readout': 'all', 'model.cells': cells}
