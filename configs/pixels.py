"""Images pixel by pixel: a recurrent network sees one at each step. MNIST has 784 steps, digits 64.

  python -m launch.train --config=configs/pixels.py:dataset=digits
  python -m launch.train --config=configs/pixels.py:learner=backprop

JAX traces one step for all. Errors of rec-LRA pass from the last step to the first (`reverse`); with
`learner.wiring=direct` every step hears the output alone.
"""

from . import common, rows


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=` (gru or elman) and every key of the config can be given."""
    config, options = rows.start(argument)
    config.model.per_step = 'pixel'
    config.model.scanned = True
    own = common.neighbours(config, options, wiring='reverse')
    return common.override(config, {**own, **({'learner.normalise': True} if own else {}), **options})
