"""CIFAR-10 in earnest on a CPU, by a small network on whitened patches: `launch.reproduce --experiment=cifar10_fast`.

  python -m launch.train --config=configs/cifar10_fast.py:learner=backprop

`recipe=strong` with crops of 2 pixels and smoothed labels, for every learner. Its stages' ends feed the output too, so
that in the paper's scheme (rLRA) every edge follows a part of the forward path; E starts as W and takes its steps.
`overlap` hands errors one stage further down. The edges of `reverse` start at random and mirror. A row is of one seed,
as it takes one core two hours, some of which can be spared: see results/notes/cpu.md. --quick trains a thin network for
an epoch.
"""

from typing import Any

from . import cifar10, common, shallow

SEARCH: dict[str, Any] = {}
QUICK = {'num_seeds': 1, 'train_examples': 500, 'epochs': 1, 'batch_size': 50, 'model.widths': (4, 4, 4)}
COLUMNS = ('row', 'step ms')
CURVES = ('epoch', 'seconds')


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    names, options = common.split(argument)
    config = cifar10.get_config(f'{names},model=fast_resnet' if 'model=' not in names else names)
    config.preprocess.zca = False
    config.batch_size = 250
    config.epochs = 10
    config.label_smoothing = 0.1
    config.model.phi = 'gelu'
    if config.model.name == 'fast_resnet':
        config.model.readout = 'all'
        config.model.cells = 4
        config.model.dtype = 'float32'
    return common.override(config, {'recipe': 'strong', 'augment.pad': 2, **options})


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    found: dict[str, dict[str, Any]] = {
        'BP': cifar10.LEARNERS['BP'],
        'rLRA': shallow.MODULES,
        'rLRA-overlap': {**shallow.MODULES, **shallow.OVERLAP},
        'rLRA-reverse': {**cifar10.LEARNERS['rLRA'], **cifar10.REVERSE},
        'DFA': cifar10.LEARNERS['DFA'],
    }
    return [
        common.row(f'{name}-seed-{seed}', name.partition('-')[0], {'model': 'fast_resnet', 'seed': seed, **own}, [{}])
        for seed in range(3)
        for name, own in found.items()
    ]
