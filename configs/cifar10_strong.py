"""ResNet-18 on CIFAR-10 at full width under the strong recipe: `launch.reproduce --experiment=cifar10_strong`.

  python -m launch.train --config=configs/cifar10_strong.py:learner=backprop

60 epochs and 3 seeds for every row, nothing searched. Networks are plain or have readout skips (`skips-2`), rLRA is the
paper's scheme; see `shallow.py`. Meant for a GPU; --quick trains two thin blocks for an epoch.
"""

from typing import Any

from . import cifar10, common, shallow

SEARCH: dict[str, Any] = {}
QUICK = {**shallow.QUICK, 'model.dtype': 'float32'}
COLUMNS = ('row', 'step ms')
CURVES = ('epoch', 'seconds')


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` and every key of the config can be given."""
    names, options = common.split(argument)
    config = cifar10.get_config(f'{names},model=resnet18' if 'model=' not in names else names)
    config.num_seeds = 3
    return common.override(config, {'recipe': 'strong', **options})


def rows() -> list[dict[str, Any]]:
    """Every row, those that are wanted most first; see `common.row`."""
    skips = {'model.readout': 'all', 'model.cells': 2}
    found: dict[str, dict[str, Any]] = {
        'BP-skips-2': {**cifar10.LEARNERS['BP'], **skips},
        'rLRA-skips-2-overlap': {**shallow.MODULES, **shallow.OVERLAP, **skips},
        'BP': cifar10.LEARNERS['BP'],
        'rLRA-skips-2': {**shallow.MODULES, **skips},
        'rLRA-overlap': {**shallow.MODULES, **shallow.REST, **shallow.OVERLAP},
        'rLRA-reverse': {**cifar10.LEARNERS['rLRA'], **cifar10.REVERSE},
        'DFA-skips-2': {**cifar10.LEARNERS['DFA'], **skips},
    }
    return [common.row(name, name.partition('-')[0], {'model': 'resnet18', **own}, [{}]) for name, own in found.items()]
