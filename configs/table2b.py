"""Table 2 (b): convolution against pseudo-convolution on CIFAR-10: `launch.reproduce --experiment=table2b`.

The paper's protocol: ResNet-18 of residual gap 2 and 64 filters or 64 perturbation masks, rates from 1e-2 down to 1e-5
by a polynomial after 40 epochs of warm-up, several batch sizes; reported are the validation error, the epoch where it
was lowest, and the time of a step. The paper names no optimizer; here it is SGD with momentum 0.9. Meant for a
GPU; --quick trains thin networks on a part of the data.
"""

from typing import Any

from . import cifar10, common, table2a

SEARCH: dict[str, Any] = {}  # the protocol is given
QUICK = {**table2a.QUICK, 'epochs': 3, 'optimizer.warmup_epochs': 1, **table2a.THIN['resnet18']}
COLUMNS = ('batch', 'validation', 'best epoch', 'step ms')
MODELS = {'c': 'resnet18', 'p': 'presnet18'}


def get_config(argument: str = ''):
    """One run; `learner=`, `rule=`, `model=` and every key of the config can be given."""
    names, options = common.split(argument)
    config = table2a.get_config(names if 'model=' in names else f'model=resnet18,{names}')
    config.epochs = 150
    config.optimizer = common.optimizer(
        'sgd', 1e-2, schedule='polynomial', warmup_epochs=40, end_rate=1e-5, momentum=0.9
    )
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    return [
        common.row(
            f'cifar10-{model}-{options["learner"]}-batch_{size}',
            f'{letter}ResNet-{algorithm}',
            {'model': model, **options, 'batch_size': size},
            [{}],
        )
        | {'quick': {'batch_size': size // 4}}
        for size in (128, 256, 512)
        for algorithm, options in cifar10.LEARNERS.items()
        if algorithm in ('BP', 'WM', 'rLRA')
        for letter, model in MODELS.items()
    ]
