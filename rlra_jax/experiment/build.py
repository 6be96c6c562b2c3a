"""From a config to the objects that it names."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.experiment.data import Dataset
from rlra_jax.experiment.optimizers import make_optimizer
from rlra_jax.learners import LEARNERS
from rlra_jax.nn import ACTIVATIONS, MODELS
from rlra_jax.train_step import TrainStep, make_train_step
from rlra_jax.validate import lookup, require


class Experiment(NamedTuple):
    """What a training run needs besides its data."""

    model: nn.Module
    step: TrainStep
    example: dict[str, jax.Array]  # a batch of zeros, for shapes
    steps_per_epoch: int


def build(config: Any, dataset: Dataset) -> Experiment:
    """Builds model, learner and optimizers.

    Args:
      config: an ml_collections.ConfigDict (see `configs/common.py`), or any mapping with its entries.
      dataset: the data it will be trained on.

    Raises:
      ValueError: an unknown name or option, a number out of range, or a batch larger than the data.
    """
    require(config['epochs'] >= 1, 'epochs', 'a whole number of at least 1', config['epochs'])
    require(config['num_seeds'] >= 1, 'num_seeds', 'a whole number of at least 1', config['num_seeds'])
    size, available = config['batch_size'], len(dataset.train.label)
    require(1 <= size <= available, 'batch_size', f'from 1 to the {available} training examples', size)
    steps = available // size
    image = jnp.zeros((size, *dataset.train.image.shape[1:]), jnp.float32)
    model = _make_model(config['model'], dataset.classes)
    learner = _call(LEARNERS, config['learner'], 'learner', model, image)
    optimizers = [
        make_optimizer(config[part], epochs=config['epochs'], steps_per_epoch=steps)
        for part in ('optimizer', 'synapse_optimizer')
    ]
    example = {'image': image, 'label': jnp.zeros((size,), jnp.int32)}
    return Experiment(model, make_train_step(learner, *optimizers), example, steps)


def _make_model(options: Mapping[str, Any], classes: int) -> nn.Module:
    options = dict(options)
    factory = lookup(MODELS, options['name'], 'model')
    known = {field.name for field in dataclasses.fields(factory)} - {'name', 'parent'}
    options |= {'classes': classes, 'phi': lookup(ACTIVATIONS, options['phi'], 'activation')}
    return _call({options['name']: factory}, options, 'model', known=known)


def _call(
    table: Mapping[str, Callable], options: Mapping[str, Any], what: str, *args: Any, known: set[str] | None = None
) -> Any:
    """table[options['name']](*args, **the other options), with an error that lists the options there are."""
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in dict(options).items()}
    name = options.pop('name')
    factory = lookup(table, name, what)
    parameters = inspect.signature(factory).parameters
    forwards = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = set(list(parameters)[len(args) :]) if known is None else known
    unknown = set() if forwards else set(options) - known
    if unknown:
        raise ValueError(f'{what} {name!r} has no option {sorted(unknown)}; it takes {sorted(known) or "none"}')
    return factory(*args, **options)
