"""Table 2 (a): CIFAR-10, a convolutional and a residual network: `launch.reproduce --experiment=table2a`.

  python -m launch.train --config=configs/table2a.py:model=resnet18,learner=weight_mirror

Contrast normalisation and ZCA whitening as in the paper, crops and mirror images for the ResNet. Three rates for each
learner, searched for 5 epochs with one seed. The paper's CNN is not described; here it is `nn.CNN`. Meant for a GPU;
--quick trains thin networks on a part of the data.
"""

from typing import Any

from . import cifar10, common

SEARCH = cifar10.SEARCH
COLUMNS = ('median cosine',)
QUICK = {'train_examples': 2000, 'epochs': 2, 'num_seeds': 1, 'batch_size': 50}
THIN: dict[str, dict[str, Any]] = {
    'cnn': {'model.widths': (8, 8, 16, 16, 32, 32)},
    'resnet18': {'model.width': 8, 'model.blocks': (1, 1, 1)},
}
PAPER = {  # training and test error in %
    'TP': (28.69, 39.47),
    'FA': (27.46, 37.44),
    'DFA': (28.74, 44.41),
    'CNN-BP': (7.89, 30.17),
    'CNN-WM': (11.79, 36.57),
    'CNN-rLRA': (10.20, 33.50),
    'ResNet-BP': (5.00, 5.94),
    'ResNet-WM': (5.97, 7.04),
    'ResNet-rLRA': (5.50, 6.42),
}
MODELS = {'CNN': 'cnn', 'ResNet': 'resnet18'}


def get_config(argument: str = ''):
    """One run; `learner=`, `rule=`, `model=` and every key of the config can be given."""
    names, options = common.split(argument)
    config = cifar10.get_config(names)
    config.num_seeds = 3
    config.epochs = 60
    config.diagnostics = True
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`. TP inverts chains, which a residual network is not."""
    return [
        _row(network, algorithm)
        for network in MODELS
        for algorithm in cifar10.LEARNERS
        if (network, algorithm) != ('ResNet', 'TP')
    ]


def _row(network: str, algorithm: str) -> dict[str, Any]:
    model = MODELS[network]
    options = {'model': model, **cifar10.LEARNERS[algorithm]}
    if algorithm == 'rLRA' and network == 'CNN':
        options |= {'learner.wiring': 'blocks'}
    name = f'{network}-{algorithm}'
    paper = PAPER.get(name, PAPER.get(algorithm, (None, None)) if network == 'CNN' else (None, None))
    grid = common.rates(cifar10.RATES, follow=algorithm == 'KP')
    return common.row(f'cifar10-{model}-{options["learner"]}', name, options, grid, paper) | {'quick': THIN[model]}
