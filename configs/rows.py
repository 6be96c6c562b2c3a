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
    recurrent = config.model.name in ('elman', 'gru')
    own = common.neighbours(config, options, wiring='time') if recurrent else {}
    return common.override(config, {**own, **({'learner.normalise': True} if own else {}), **options})


def start(argument: str) -> tuple[Any, dict[str, Any]]:
    """(a recurrent network on MNIST, without what its wiring wants; the other options): as `common.start`."""
    config, options = common.start(argument, model='gru', width=128)
    config.dataset = 'mnist'
    config.batch_size = 100
    config.epochs = 20
    config.optimizer.learning_rate = 1e-3
    return config, options
