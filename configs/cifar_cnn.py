"""Six convolutions on 10,000 images of CIFAR-10: wirings and rules of rec-LRA beside backprop.

  python -m launch.reproduce --experiment=cifar_cnn
  python -m launch.train --config=configs/cifar_cnn.py:rule=kp,learner.wiring=chain,model.phi=tanh

Every row takes Adam at 1e-3 with a cosine, untuned. Edges between maps are transposed convolutions, those from the
output dense. Rows keep each region's angle to backprop's gradient after the last epoch.
"""

from typing import Any

from . import common

SEARCH: dict[str, Any] = {}  # nothing is searched
QUICK = {'epochs': 1, 'num_seeds': 1, 'train_examples': 1000}
COLUMNS = ('median cosine',)
PATHWAYS = (
    ('fixed', 'direct'),
    ('kp', 'direct'),
    ('mirror', 'direct'),
    ('mirror', 'blocks'),
    ('mirror', 'chain'),
    ('kp', 'chain'),
)


def get_config(argument: str = ''):
    """One run; `learner=`, `rule=`, `model=` and every key of the config can be given."""
    config, options = common.start(argument, model='cnn')
    config.dataset = 'cifar10'
    config.train_examples = 10_000
    config.batch_size = 100
    config.epochs = 6
    config.num_seeds = 3
    config.diagnostics = True
    config.optimizer.learning_rate = 1e-3
    return common.override(config, options)


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    found = []
    for phi in ('relu', 'tanh'):
        found.append(common.row(f'cifar_cnn-backprop-{phi}', 'BP', {'learner': 'backprop', 'model.phi': phi}, [{}]))
        for rule, wiring in PATHWAYS:
            options: dict[str, Any] = {'learner': 'rec_lra', 'rule': rule, 'learner.wiring': wiring, 'model.phi': phi}
            if wiring == 'chain':
                options['learner.normalise'] = True  # errors shrink by beta at each of six levels
                options |= common.NEIGHBOURS if rule == 'mirror' else {}
            found.append(common.row(f'cifar_cnn-rec_lra-{rule}-{wiring}-{phi}', 'rLRA', options, [{}]))
    return found
