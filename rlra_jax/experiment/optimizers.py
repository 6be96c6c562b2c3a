"""Optimizers and learning-rate schedules that configs can name, all of them optax's."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import optax

from rlra_jax.types import PyTree
from rlra_jax.validate import lookup, require, require_flag, require_number

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
_NUMBERS = {'weight_decay', 'eps', 'eps_root', 'initial_scale'}  # options of optax's
_AVERAGES = {'b1', 'b2', 'decay'}  # by 1 - which optax divides
_FLAGS = {'nesterov', 'centered', 'eps_in_sqrt', 'bias_correction'}
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
    _check_values(options)
    mask = lookup(DECAYS, options.pop('decays', 'all'), 'decays')
    factory = lookup(OPTIMIZERS, name, 'optimizer')
    takes = set(inspect.signature(factory).parameters)
    known = takes - {'learning_rate', 'mask'} | {'weight_decay'}
    unknown = set(options) - own - known
    if unknown:
        told = sorted(own | known | {'decays'})
        raise ValueError(f'optimizer {name!r} has no option {sorted(unknown)}; it takes {told}')
    plain = 'momentum' in takes and 'momentum' not in options
    require(not (plain and options.get('nesterov')), 'nesterov', f'False for {name!r} without a momentum', True)
    rate = make_schedule(
        **{key: options.pop(key) for key in own & set(options)}, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
    decay = None
    if 'weight_decay' in takes:  # whose default may not be 0
        options['mask'] = mask
    elif 'weight_decay' in options:
        decay = optax.add_decayed_weights(options.pop('weight_decay'), mask)
    try:
        optimizer = factory(rate, **options)
    except TypeError as error:  # what no check here knows of, such as a dtype
        raise ValueError(f'optimizer {name!r} takes no such option: {error}; got {options}') from error
    return optax.chain(decay, optimizer) if decay else optimizer


def _check_values(options: Mapping[str, Any]) -> None:
    """Raises ValueError where optax would fail in a step, or compute what is not finite."""
    for name in options.keys() & _NUMBERS:
        require_number(name, options[name], 0)
    for name in options.keys() & {'momentum', *_AVERAGES}:
        require_number(name, options[name], 0, 1)
    for name in options.keys() & _AVERAGES:
        require(options[name] < 1, name, 'below 1', options[name])
    for name in options.keys() & _FLAGS:
        require_flag(name, options[name])
