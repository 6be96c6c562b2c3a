"""Table 3 on Tiny ImageNet, which stands in for ILSVRC: top-1 and top-5 error: `launch.reproduce --experiment=table3`.

  python -m launch.train --config=configs/table3.py:model=cnn,learner=feedback_alignment

The paper's numbers are ImageNet's, so only the order of the rows can be compared. Two rates for each learner, searched
for 5 epochs with one seed. Meant for a GPU; --quick trains thin networks on a part of the data. The picture is Figure 2
(right): validation error against epoch and against time.
"""

from typing import Any

from . import cifar10, common, tiny_imagenet

SEARCH = {'epochs': 5, 'num_seeds': 1}
QUICK = {'train_examples': 2000, 'epochs': 2, 'num_seeds': 1, 'batch_size': 50}
COLUMNS = ('test top-5', 'step ms')
CURVES = ('epoch', 'seconds')
THIN = {'cnn': {'model.widths': (8, 8, 16, 16, 32, 32)}, 'resnet18': {'model.width': 8}}
ROWS: dict[str, dict[str, Any]] = {
    'CNN, TP': {'model': 'cnn', **cifar10.LEARNERS['TP']},
    'CNN, FA': {'model': 'cnn', **cifar10.LEARNERS['FA']},
    'ResNet, FA+BP': {'model': 'resnet18', 'learner': 'fa_bp'},
    'ResNet, SS': {'model': 'resnet18', **cifar10.LEARNERS['SS']},
    'ResNet, SS+BP': {'model': 'resnet18', 'learner': 'ss_bp'},
    'ResNet, FA+WM': {'model': 'resnet18', 'learner': 'fa_wm'},
    'ResNet, WM': {'model': 'resnet18', **cifar10.LEARNERS['WM']},
    'ResNet, KP': {'model': 'resnet18', **cifar10.LEARNERS['KP']},
    'CNN, BP': {'model': 'cnn', **cifar10.LEARNERS['BP']},
    'CNN, rLRA': {'model': 'cnn', **cifar10.LEARNERS['rLRA'], 'learner.wiring': 'blocks'},
    'ResNet, BP': {'model': 'resnet18', **cifar10.LEARNERS['BP']},
    'ResNet, rLRA': {'model': 'resnet18', **cifar10.LEARNERS['rLRA']},
}


def get_config(argument: str = ''):
    """One run; `learner=`, `rule=`, `model=` and every key of the config can be given."""
    names, options = common.split(argument)
    config = tiny_imagenet.get_config(names)
    config.num_seeds = 3
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row, in the paper's order; see `common.row`."""
    return [
        common.row(
            f'tiny_imagenet-{options["model"]}-{options["learner"]}',
            algorithm,
            options,
            common.rates((3e-4, 1e-3), follow='KP' in algorithm),
        )
        | {'quick': THIN[options['model']]}
        for algorithm, options in ROWS.items()
    ]
