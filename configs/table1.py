"""Table 1 of the paper, all algorithms on MNIST and Fashion MNIST: `launch.reproduce --experiment=table1`.

  python -m launch.train --config=configs/table1.py:dataset=mnist,learner=feedback_alignment

Networks, budgets and the rows of BP and rLRA are those of configs/mlp.py: four points for every algorithm, each
searched for 5 epochs with one seed on validation data. tanh units but where the row says otherwise.
"""

from typing import Any

from . import common, mlp

PAPER = {  # training and test error in %
    ('TP', 'mnist'): (0.00, 1.86),
    ('TP', 'fashion_mnist'): (21.078, 19.66),
    ('E-Prop', 'mnist'): (7.59, 9.21),
    ('E-Prop', 'fashion_mnist'): (16.56, 20.97),
    ('LRA-E', 'mnist'): (0.16, 1.97),
    ('LRA-E', 'fashion_mnist'): (9.84, 12.31),
    ('FA', 'mnist'): (0.00, 1.85),
    ('FA', 'fashion_mnist'): (12.09, 12.89),
    ('DFA', 'mnist'): (0.85, 2.75),
    ('DFA', 'fashion_mnist'): (12.58, 13.09),
    ('WM', 'mnist'): (0.08, 1.99),
    ('WM', 'fashion_mnist'): (7.00, 12.49),
}
RATES = [{'optimizer.learning_rate': rate} for rate in (2e-4, 5e-4, 1e-3, 2e-3)]
GRIDS = {
    'TP': [{'optimizer.learning_rate': rate, 'learner.step': step} for rate in (1e-4, 3e-4) for step in (3.0, 10.0)],
    'DTP': [{'optimizer.learning_rate': rate, 'learner.step': step} for rate in (3e-4, 1e-3) for step in (0.3, 1.0)],
    'E-Prop': [
        {'optimizer.learning_rate': rate, 'learner.nudge': nudge} for rate in (2e-4, 5e-4) for nudge in (0.5, 1.0)
    ],
    'LRA-E': [{'optimizer.learning_rate': rate, 'learner.beta': beta} for rate in (5e-4, 1e-3) for beta in (0.1, 1.0)],
}
LEARNERS = {
    'TP': 'target_prop',
    'DTP': 'difference_target_prop',  # not in the paper's table, but what others mean by target propagation
    'E-Prop': 'equilibrium_prop',
    'LRA-E': 'lra_e',
    'FA': 'feedback_alignment',
    'DFA': 'direct_feedback_alignment',
    'WM': 'weight_mirror',
}
EPOCHS = {'E-Prop': 10}  # a step settles some 20 times; the others train for 30
SEARCH = mlp.SEARCH
QUICK = mlp.QUICK
get_config = mlp.get_config


def rows() -> list[dict[str, Any]]:
    """Every row, in the paper's order; see `common.row`."""
    found = []
    for dataset in mlp.DATASETS:
        found.append(mlp.row(dataset, 'backprop', '', 'tanh'))
        found += [_row(dataset, algorithm) for algorithm in LEARNERS]
        found += [mlp.row(dataset, 'rec_lra', 'mirror', phi) for phi in mlp.ACTIVATIONS]
    return found


def _row(dataset: str, algorithm: str) -> dict[str, Any]:
    options: dict[str, Any] = {'dataset': dataset, 'learner': LEARNERS[algorithm]}
    if algorithm in EPOCHS:
        options['epochs'] = EPOCHS[algorithm]
    grid, paper = GRIDS.get(algorithm, RATES), PAPER.get((algorithm, dataset), (None, None))
    return common.row(f'{dataset}-{LEARNERS[algorithm]}', algorithm, options, grid, paper)
