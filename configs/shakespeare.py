"""Tiny Shakespeare, character by character: a transformer of about 0.8 million parameters that sees 64 at once.

  python -m launch.train --config=configs/shakespeare.py
  python -m launch.train --config=configs/shakespeare.py:learner=backprop
  python -m launch.train --config=configs/shakespeare.py:learner.wiring=modules,quick=True
  python -m launch.sample --workdir=WORKDIR

An epoch has as many windows as would follow each other in the text; each starts anywhere. In a tenth of the first epoch
rates rise from 0. Whole texts are evaluated, window after window. The wiring of rec_lra is `reverse` unless
`learner.wiring=` names another, such as modules or direct. With `quick=True` the model is small, and trains on a part
of the text: on a CPU in minutes.
"""

from . import common, recipes

QUICK = {
    'model.width': 48,
    'model.depth': 2,
    'model.context': 32,
    'train_examples': 12800,  # windows, of 31,370
    'epochs': 3,
}


def get_config(argument: str = ''):
    """`learner=`, `rule=`, `model=`, `quick=` and every key of the config can be given."""
    config, options = common.start(argument, model='transformer')
    config.dataset = 'tiny_shakespeare'
    config.batch_size = 32
    config.epochs = 10
    config.model.phi = 'gelu'
    config.optimizer.learning_rate = 1e-3
    for part in recipes.of_weights(config):
        config[part].warmup_epochs = 0.1
    quick = options.pop('quick', False)
    if not isinstance(quick, bool):
        raise ValueError(f'quick must be True or False; got {quick!r}')
    own = common.neighbours(config, options, wiring='reverse') | (QUICK if quick else {})
    return common.override(config, {**own, **options})
