"""Images row by row: a recurrent network sees one row at each step. MNIST has 28 steps of 28 pixels, digits 8 of 8.

  python -m launch.train --config=configs/rows.py:dataset=digits,learner.through=none
  python -m launch.train --config=configs/rows.py:model=elman,learner=backprop

`learner.through` says how far rec-LRA's errors pass from step to step: none, chain (unless told), or windows of so many
steps.
"""

from typing import Any

from . import common


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` (gru or elman) and every key of the config can be given."""
    config, options = start(argument)
    own: dict[str, Any] = {}
    if config.learner.name == 'rec_lra' and config.model.name in ('elman', 'gru'):
        config.learner.wiring = 'time'
        config.learner.normalise = True
        wiring, through = options.get('learner.wiring', 'time'), options.get('learner.through')
        near = wiring in ('chain', 'reverse') or (wiring == 'time' and through in (None, 'chain'))
        if config.learner.rule == 'mirror' and near:
            own = common.NEIGHBOURS
    return common.override(config, {**own, **options})


def start(argument: str) -> tuple[Any, dict[str, Any]]:
    """(a recurrent network on MNIST, without what its wiring wants; the other options): as `common.start`."""
    config, options = common.start(argument, model='gru', width=128)
    config.dataset = 'mnist'
    config.batch_size = 100
    config.epochs = 20
    config.optimizer.learning_rate = 1e-3
    return config, options
