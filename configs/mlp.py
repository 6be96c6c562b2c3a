"""The paper's 5 x 256 networks on MNIST and Fashion MNIST: every row of `launch.reproduce --experiment=mlp`.

  python -m launch.train --config=configs/mlp.py:dataset=mnist,rule=kp,model.phi=relu

Each row's hyper-parameters come from `grid`: four points for every learner, rule and activation, backprop included,
each trained for SEARCH on Fashion MNIST with one seed, judged by validation error. The winner serves both data sets.
"""

from typing import Any

from configs import common

ACTIVATIONS = ('tanh', 'relu', 'elu', 'sign')
DATASETS = ('mnist', 'fashion_mnist')
PAPER = {  # Table 1, test error in %
    ('backprop', 'tanh'): {'mnist': 1.48, 'fashion_mnist': 12.98},
    ('rec_lra', 'tanh'): {'mnist': 1.82, 'fashion_mnist': 11.87},
    ('rec_lra', 'relu'): {'mnist': 2.26, 'fashion_mnist': 14.13},
    ('rec_lra', 'elu'): {'mnist': 1.93, 'fashion_mnist': 13.17},
    ('rec_lra', 'sign'): {'mnist': 2.33, 'fashion_mnist': 14.88},
}
SEARCH = {'dataset': 'fashion_mnist', 'epochs': 5, 'num_seeds': 1}


def get_config(argument: str = ''):
    """One run; `learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument)
    config.dataset = 'fashion_mnist'
    config.num_seeds = 3
    config.checkpoint_every = 5
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row: 'options' for get_config, 'family' (rows of one family share a search), and the paper's number."""
    families = [('rec_lra', rule, phi) for rule in ('mirror', 'kp', 'fixed') for phi in ACTIVATIONS]
    families += [('backprop', '', phi) for phi in ACTIVATIONS if phi != 'sign']  # sign has no gradient
    return [
        {
            'family': f'{learner}-{rule}-{phi}' if rule else f'{learner}-{phi}',
            'options': {
                'dataset': dataset,
                'learner': learner,
                **({'rule': rule} if rule else {}),
                'model.phi': phi,
            },
            'grid': grid(learner, phi),
            'paper_test_error': PAPER.get((learner, phi), {}).get(dataset),
        }
        for learner, rule, phi in families
        for dataset in DATASETS
    ]


def grid(learner: str, phi: str) -> list[dict[str, Any]]:
    """The four points of a search."""
    if learner == 'backprop':
        return [{'optimizer.learning_rate': rate} for rate in (2e-4, 5e-4, 1e-3, 2e-3)]
    if phi == 'sign':  # beta d must reach over the threshold of some units
        return [
            {'optimizer.learning_rate': rate, 'learner.wiring': 'direct', 'learner.beta': beta}
            for rate in (1e-3, 2e-3)
            for beta in (2.0, 4.0)
        ]
    return [
        {'optimizer.learning_rate': rate, 'learner.wiring': wiring}
        for rate in (3e-4, 1e-3)
        for wiring in ('blocks', 'direct')
    ]
