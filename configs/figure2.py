"""Figure 2 (left, middle), backprop and rec-LRA on deep networks: `launch.reproduce --experiment=figure2`.

  python -m launch.train --config=configs/figure2.py:dataset=mnist,model.phi=sigmoid

8 x 256 sigmoid and tanh networks, 100 epochs from a plain Gaussian start, N(0, 0.05^2).
`tuned` rows search the same four rates for both learners on validation data, `plain` rows take Adam's usual 1e-3.
"""

from typing import Any

from . import common

DATASETS = ('fashion_mnist', 'mnist')
SEARCH = {'epochs': 10, 'num_seeds': 1}
QUICK = {'epochs': 2, 'num_seeds': 1, 'batch_size': 250}
CURVES = ('epoch',)  # rows keep their error curves, and the picture shows them against this
RATES = (2e-4, 5e-4, 1e-3, 2e-3)


def get_config(argument: str = ''):
    """One run; `learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument, depth=8)
    config.dataset = 'fashion_mnist'
    config.epochs = 100
    config.num_seeds = 3
    config.checkpoint_every = 5
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    return [
        _row(dataset, phi, learner, tuned)
        for tuned in (True, False)
        for dataset in DATASETS
        for phi in ('sigmoid', 'tanh')
        for learner in ('backprop', 'rec_lra')
    ]


def _row(dataset: str, phi: str, learner: str, tuned: bool) -> dict[str, Any]:
    options = {'dataset': dataset, 'learner': learner, 'model.phi': phi}
    if learner == 'rec_lra':
        options |= {'rule': 'kp'}
    start = 'tuned' if tuned else 'plain'
    return common.row(
        f'8x256-{dataset}-{learner}-{phi}-{start}',
        f'{"BP" if learner == "backprop" else "rLRA"}, {phi}, {start}',
        options,
        [{'optimizer.learning_rate': rate} for rate in (RATES if tuned else (1e-3,))],
    )
