"""Optimizers and learning-rate schedules that configs can name, all of them optax's."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import optax

from rlra_jax.types import PyTree
from rlra_jax.validate import lookup, require, require_number

OPTIMIZERS = {'adam': optax.adam, 'adamw': optax.adamw, 'rmsprop': optax.rmsprop, 'sgd': optax.sgd}


def _constant(rate: float, steps: int, end: float, power: float) -> optax.Schedule:
    del steps, end, power
    return optax.constant_schedule(rate)


def _cosine(rate: float, steps: int, end: float, power: float) -> optax.Schedule:
    del power
    return optax.cosine_decay_schedule(rate, steps, alpha=end / rate)


def _polynomial(rate: float, steps: int, end: float, power: float) -> optax.Schedule:
    return optax.polynomial_schedule(rate, end, power, steps)


def _kernels(weights: PyTree) -> PyTree:
    """Which arrays are kernels or embeddings, those along synapses' paths too; the others scale and shift."""

    def is_one(path: Any, _: Any) -> bool:
        return jax.tree_util.keystr(path, simple=True, separator='/').rpartition('/')[2] in ('kernel', 'embedding')

    return jax.tree.map_with_path(is_one, weights)


DECAYS = {'all': None, 'kernels': _kernels}  # what a weight decay takes from: a mask, or all
SCHEDULES = {'constant': _constant, 'cosine': _cosine, 'polynomial': _polynomial}


def make_schedule(
    learning_rate: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    schedule: str = 'constant',
    warmup_epochs: float = 0.0,
    end_rate: float = 0.0,
    power: float = 1.0,
) -> optax.Schedule:
    """A linear warm-up from 0, of epochs or of a part of one, then the named decay to `end_rate` over the epochs left.

    Raises:
      ValueError: a rate that is not positive, an unknown schedule, or a warm-up as long as the run.
    """
    require_number('learning_rate', learning_rate, 0, above=True)
    require_number('end_rate', end_rate, 0)
    require_number('power', power, 0, above=True)
    require_number('warmup_epochs', warmup_epochs, 0)
    warmup = round(warmup_epochs * steps_per_epoch)
    fits = warmup < epochs * steps_per_epoch
    require(fits, 'warmup_epochs', f'a step or more below the {epochs} epochs', warmup_epochs)
    decay = lookup(SCHEDULES, schedule, 'schedule')
    after = decay(learning_rate, epochs * steps_per_epoch - warmup, end_rate, power)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), after], [warmup])


def make_optimizer(options: Mapping[str, Any], *, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """An optimizer from its part of the config: {'name': ..., 'learning_rate': ..., 'schedule': ..., ...}.

    What `make_schedule` does not take goes to the optimizer, such as 'momentum', but for entries that are None.
    'weight_decay' is decoupled in adamw and added to the gradient elsewhere, as Kolen and Pollack need it. 'decays'
    says of what: 'all', or 'kernels', and so neither of biases and normalisations nor of straight synapses.

    Raises:
      ValueError: an unknown optimizer, schedule or option, or a number out of range.
    """
    own = set(inspect.signature(make_schedule).parameters) - {'epochs', 'steps_per_epoch'}
    options = {key: value for key, value in options.items() if value is not None or key in {*own, 'name'}}
    name = options.pop('name')
    require_number('weight_decay', options.get('weight_decay', 0.0), 0)
    for average in {'momentum', 'b1', 'b2', 'decay'} & set(options):
        require_number(average, options[average], 0, 1)
    mask = lookup(DECAYS, options.pop('decays', 'all'), 'decays')
    factory = lookup(OPTIMIZERS, name, 'optimizer')
    known = set(inspect.signature(factory).parameters) - {'learning_rate'} | {'weight_decay'}
    unknown = set(options) - own - known
    if unknown:
        raise ValueError(f'optimizer {name!r} has no option {sorted(unknown)}; it takes {sorted(own | known)}')
    rate = make_schedule(
        **{key: options.pop(key) for key in own & set(options)}, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
    if 'weight_decay' in inspect.signature(factory).parameters:  # whose default may not be 0
        return factory(rate, **options, mask=mask)
    if 'weight_decay' not in options:
        return factory(rate, **options)
    return optax.chain(optax.add_decayed_weights(options.pop('weight_decay'), mask), factory(rate, **options))
