"""The paper's 5 x 256 networks on MNIST and Fashion MNIST: every row of `launch.reproduce --experiment=mlp`.

  python -m launch.train --config=configs/mlp.py:dataset=mnist,rule=kp,model.phi=relu

Each row's hyper-parameters come from `grid`: four points for every learner, rule and activation, backprop included,
each trained for SEARCH with one seed, judged by validation error.
"""

from typing import Any

from . import common

ACTIVATIONS = ('tanh', 'relu', 'elu', 'sign')
DATASETS = ('mnist', 'fashion_mnist')
PAPER = {  # Table 1: training and test error in %
    ('BP', 'mnist'): (0.00, 1.48),
    ('BP', 'fashion_mnist'): (12.10, 12.98),
    ('rLRA, tanh', 'mnist'): (0.00, 1.82),
    ('rLRA, tanh', 'fashion_mnist'): (6.57, 11.87),
    ('rLRA, relu', 'mnist'): (0.22, 2.26),
    ('rLRA, relu', 'fashion_mnist'): (8.95, 14.13),
    ('rLRA, elu', 'mnist'): (0.09, 1.93),
    ('rLRA, elu', 'fashion_mnist'): (9.39, 13.17),
    ('rLRA, sign', 'mnist'): (0.85, 2.33),
    ('rLRA, sign', 'fashion_mnist'): (12.42, 14.88),
}
SEARCH = {'epochs': 5, 'num_seeds': 1}
QUICK = {'epochs': 1, 'num_seeds': 1, 'batch_size': 250}


def get_config(argument: str = ''):
    """One run; `learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument)
    config.dataset = 'fashion_mnist'
    config.num_seeds = 3
    config.checkpoint_every = 5
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    families = [('rec_lra', rule, phi) for rule in ('mirror', 'kp', 'fixed') for phi in ACTIVATIONS]
    families += [('backprop', '', phi) for phi in ACTIVATIONS if phi != 'sign']  # sign has no gradient
    return [row(dataset, *family) for family in families for dataset in DATASETS]


def row(dataset: str, learner: str, rule: str, phi: str) -> dict[str, Any]:
    """One row."""
    # Sign units follow noise only where it carries some of them over the threshold.
    special = {'learner.surrogate': 'tanh', 'learner.mirror_std': 0.5} if phi == 'sign' else {}
    algorithm = {('backprop', '', 'tanh'): 'BP', ('rec_lra', 'mirror', phi): f'rLRA, {phi}'}.get((learner, rule, phi))
    return common.row(
        '-'.join(filter(None, (dataset, learner, rule, phi))),
        algorithm,
        {'dataset': dataset, 'learner': learner, **({'rule': rule} if rule else {}), 'model.phi': phi, **special},
        grid(learner, rule, phi),
        PAPER.get((algorithm or '', dataset), (None, None)),
    )


def grid(learner: str, rule: str, phi: str) -> list[dict[str, Any]]:
    """The four points of a search."""
    if learner == 'backprop':
        return [{'optimizer.learning_rate': rate} for rate in (2e-4, 5e-4, 1e-3, 2e-3)]
    rates = {'tanh': (5e-4, 1e-3), 'sign': (1e-3, 2e-3)}.get(phi, (3e-4, 6e-4))  # the unbounded must not outrun E
    wirings: list[dict[str, Any]] = [{'learner.wiring': name} for name in ('blocks', 'direct')]
    if rule == 'mirror' and phi in ('relu', 'elu'):  # in a chain it keeps up with them
        rates = (5e-4, 1e-3)
        wirings[1] = {'learner.wiring': 'chain', 'learner.normalise': True, **common.NEIGHBOURS}
    return [{'optimizer.learning_rate': rate, **wiring} for rate in rates for wiring in wirings]
