"""CIFAR-10 in earnest on a CPU, by a small network on whitened patches: `launch.reproduce --experiment=cifar10_fast`.

  python -m launch.train --config=configs/cifar10_fast.py:learner=backprop

`recipe=strong` for every learner, but a lower rate for DFA, with crops of 2 pixels, smoothed labels, more weight decay,
and answers averaged over an image and its mirror image. Its stages' ends feed the output too, so that in the paper's
scheme (rLRA) every edge follows a part of the forward path; E starts as W and takes its steps. `overlap` hands errors
one block further down. With `rest` mirrors learn the mean of what passes through the blocks above, in every 8th step.
In `ends` not every stage is a block: the last layer is one, so that what a mirror stands for has no pooling in it. The
edges of `reverse` start at random and mirror, in every other step. A row is of one seed. Rows called narrow have about
half the channels and 10 epochs, and take one core about forty minutes, others two and a half hours or more. Some of it
can be spared: see results/notes/cpu.md. --quick trains a thin network for an epoch.
"""

from typing import Any

from . import cifar10, common, shallow

ENDS = ('stage_1/act_2', 'stage_3/act_1')
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
    config.epochs = 16
    config.label_smoothing = 0.2
    config.average_flips = True
    config.model.phi = 'gelu'
    if config.model.name == 'fast_resnet':
        config.model.readout = 'all'
        config.model.cells = 2
        config.model.dtype = 'float32'
    common.override(config, options)
    own = {'augment.pad': 2, 'optimizer.weight_decay': 1.3e-3}
    return common.override(config, {'recipe': 'strong', **own, **options})


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    rest = {**shallow.MODULES, **shallow.REST, **shallow.OVERLAP}
    found: dict[str, dict[str, Any]] = {
        'BP': cifar10.LEARNERS['BP'],
        'rLRA': shallow.MODULES,
        'rLRA-overlap': {**shallow.MODULES, **shallow.OVERLAP},
        'rLRA-rest-overlap': {**rest, 'learner.mirror_every': 8},
        'rLRA-rest-overlap-ends': {**rest, 'learner.mirror_every': 8, 'learner.block': ENDS},
        'rLRA-reverse': {**cifar10.LEARNERS['rLRA'], **cifar10.REVERSE, 'learner.mirror_every': 2},
        # DFA's loss grew to 810 at the others' rate of 0.195, and to 10 at 0.05.
        'DFA': {**cifar10.LEARNERS['DFA'], 'optimizer.learning_rate': 0.0125},
    }
    sizes: dict[str, dict[str, Any]] = {'narrow-': {'model.widths': (32, 128, 128), 'epochs': 10}, '': {}}
    return [
        common.row(
            f'{size}{name}-seed-{seed}',
            name.partition('-')[0],
            {'model': 'fast_resnet', 'seed': seed, **own, **changes},
            [{}],
        )
        for size, changes in sizes.items()
        for seed in range(3)
        for name, own in found.items()
    ]
