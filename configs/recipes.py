"""How to train a model in earnest: `recipe=NAME` in a config stands for the entries that a function here returns."""

from typing import Any

from ml_collections import ConfigDict


def strong(config: ConfigDict, given: dict[str, Any]) -> dict[str, Any]:
    """The usual recipe for convolutional networks, the same for every learner: entries that suit a config.

    SGD with Nesterov momentum, its rate by the size of the batch, a short warm-up and a cosine to 0, a weight decay of
    kernels alone, and of images crops and mirror images. Synapses that follow the weights take the weights' own steps,
    those entries included that are given for the weights; others keep their own.

    Raises:
      ValueError: another optimizer than SGD is given.
    """
    steps = {
        'name': 'sgd',
        'learning_rate': 0.1 * config.batch_size / 128,
        'momentum': 0.9,
        'nesterov': True,
        'weight_decay': 5e-4,
        'decays': 'kernels',
        'schedule': 'cosine',
        'warmup_epochs': min(config.epochs // 5, 5),
    }
    steps |= {key.removeprefix('optimizer.'): value for key, value in given.items() if key.startswith('optimizer.')}
    for key in (f'{part}.name' for part in of_weights(config)):
        if given.get(key, 'sgd') != 'sgd':
            raise ValueError(f'recipe=strong is one of sgd; got {key}={given[key]!r}')
    own = {f'{part}.{key}': value for part in of_weights(config) for key, value in steps.items()}
    images = config.model.name != 'transformer'  # which reads texts
    return own | ({'augment.pad': 4, 'augment.flip': True} if images else {})


def of_weights(config: ConfigDict) -> tuple[str, ...]:
    """The optimizers that take the weights' steps: that of synapses, too, where all of these follow the weights."""
    learner = config.learner
    follow = learner.name == 'kolen_pollack' or (learner.get('rule') == 'kp' and learner.get('rest') is None)
    return ('optimizer', 'synapse_optimizer') if follow else ('optimizer',)


RECIPES = {'strong': strong}
