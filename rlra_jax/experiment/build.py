"""From a config to the objects that it names."""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rlra_jax.diagnostics import diagnose
from rlra_jax.edges import Wiring
from rlra_jax.experiment import modes
from rlra_jax.experiment.augment import Answer, Augment, make_augment, over_flips
from rlra_jax.experiment.data import Dataset, Split
from rlra_jax.experiment.modes import Spread
from rlra_jax.experiment.names import named
from rlra_jax.experiment.optimizers import make_optimizer
from rlra_jax.experiment.preprocess import make_preprocess
from rlra_jax.experiment.records import Records
from rlra_jax.learners import LEARNERS
from rlra_jax.loss import smoothed_cross_entropy
from rlra_jax.model.call import call_on
from rlra_jax.model.net import Net
from rlra_jax.model.regions import regions
from rlra_jax.nn import ACTIVATIONS, MODELS
from rlra_jax.train_step import TrainStep, make_train_step, optimizers
from rlra_jax.types import Learner, Loss, Variables
from rlra_jax.validate import lookup, require, require_count, require_number

_LOG = logging.getLogger(__name__)
_FITTED = 1000  # images


class Experiment(NamedTuple):
    """What a training run needs besides its data."""

    net: Net  # the model, called as in training
    wiring: Wiring | None  # of a learner that is told one
    reads: str  # the entry of a batch that the model is called on: image or tokens
    predict: Answer  # (variables, what it reads) -> logits, in inference
    settles: bool  # whether it answers otherwise than by a forward pass
    loss: Loss  # that it learns from
    step: TrainStep
    spread: Spread  # the same step on the devices there are
    example: dict[str, jax.Array]  # a batch of zeros, for shapes
    steps_per_epoch: int
    fitted: Variables  # the collections that come from the training data, whatever the seed; {} of most models
    augment: Augment | None  # of training images
    diagnose: Callable[..., dict[str, jax.Array]] | None  # (weights, state, batch, key), once an epoch


def build(config: Any, dataset: Dataset) -> Experiment:
    """Builds model, learner and optimizers.

    Args:
      config: an ml_collections.ConfigDict (see `configs/common.py`), or any mapping with its entries.
      dataset: the data it will be trained on.

    Raises:
      ValueError: an unknown name or option, a number out of range, or a batch larger than the data.
    """
    for name in ('epochs', 'num_seeds', 'checkpoint_every', 'batch_size'):
        require_count(name, config[name])
    for name in ('seed', 'checkpoint_steps'):
        require_count(name, config[name], low=0)
    last_seed = config['seed'] + config['num_seeds'] - 1
    require(last_seed < 2**31, 'the last seed', 'below 2**31', last_seed)
    if isinstance(dataset.train, Records):
        what = f'1 for {dataset.name}, which is read as training goes on'
        require(config['num_seeds'] == 1, 'num_seeds', what, config['num_seeds'])
    if config['checkpoint_steps']:
        what = '1 with checkpoint_steps, which goes on from the start of an epoch'
        require(config['checkpoint_every'] == 1, 'checkpoint_every', what, config['checkpoint_every'])
    size, available = config['batch_size'], dataset.train.size
    require(size <= available, 'batch_size', f'from 1 to the {available} training examples', size)
    steps = available // size
    model = make_model(config['model'], dataset.classes)
    reads = _reads(config, model, dataset)
    example = _example(dataset, size)
    net = regions(model, example, call=call_on('tokens') if reads == 'tokens' else None)
    options = named(config['learner'])
    smoothing = config.get('label_smoothing', 0.0)  # older configs have none
    require_number('label_smoothing', smoothing, 0, 1)
    loss = smoothed_cross_entropy(smoothing)
    learner = _call(LEARNERS, options, 'learner', net, loss=loss)
    # Paths that follow W take its steps; beside what learns from afar they have an optimizer apart from that.
    follows = config['learner'].get('rest') is not None and config['learner'].get('rule') == 'kp'
    if not follows:
        _tell_of_other_steps(config)
    optimizer = optimizers(
        *(
            _optimizer(config, part, steps)
            for part in ('optimizer', 'synapse_optimizer', *(['optimizer'] if follows else []))
        )
    )
    step = make_train_step(learner, optimizer)
    augment = _augment(config, dataset)
    if reads == 'tokens':
        what = 'one that answers by a forward pass, for a text: where states settle, a character hears those after it'
        require(learner.predict is None, 'learner', what, config['learner']['name'])
    diagnosed = config['diagnostics']
    told = functools.partial(diagnose, net, learner, allow=options.get('allow', ())) if diagnosed else None
    spread = modes.spread(config['parallel'], modes.Plain(net, {**options, 'loss': loss}, optimizer, step))
    _trace(net, step, spread, example)
    wiring = options.get('wiring')
    wiring = wiring(net) if callable(wiring) else wiring
    predict, fitted = _predict(model, learner, flips=_flips(config, dataset)), _fitted(model, config, dataset)
    settles = learner.predict is not None
    return Experiment(net, wiring, reads, predict, settles, loss, step, spread, example, steps, fitted, augment, told)


def make_model(options: Mapping[str, Any], classes: int) -> nn.Module:
    """The module that a config's entry `model` describes; raises ValueError for unknown names and options."""
    phi = lookup(ACTIVATIONS, options['phi'], 'activation')
    dtype = options.get('dtype', 'float32')
    require(dtype in ('float32', 'bfloat16'), 'model.dtype', 'float32 or bfloat16', dtype)
    return _call(MODELS, {**options, 'classes': classes, 'phi': phi}, 'model')


def _reads(config: Any, model: nn.Module, dataset: Dataset) -> str:
    """The entry of a batch that the model is called on, which the data must have."""
    reads, there = getattr(model, 'reads', 'image'), dataset.train.reads
    if reads != there:
        name = config['model']['name']
        raise ValueError(
            f'the model {name!r} reads {reads}, but {dataset.name} holds {there}; choose another of the two'
        )
    return reads


def _fitted(model: nn.Module, config: Any, dataset: Dataset) -> Variables:
    """What a model with a method `fitted` makes of the first training images, as it sees them."""
    if not hasattr(model, 'fitted'):
        return {}
    name = config['model']['name']
    what = f'one whose images are all at hand, for the model {name!r}'
    require(isinstance(dataset.train, Split), 'the data set', what, dataset.name)
    return model.fitted(make_preprocess(dataset, **config['preprocess'])(dataset.train.image[:_FITTED]))


def _optimizer(config: Any, part: str, steps: int) -> optax.GradientTransformation:
    try:
        return make_optimizer(config[part], epochs=config['epochs'], steps_per_epoch=steps)
    except ValueError as error:
        raise ValueError(f'{part}: {error}') from error


def _tell_of_other_steps(config: Any) -> None:
    """Warns of synapses that should be as W, or become so, and take other steps."""
    learner = config['learner']
    starts = learner.get('rule') == 'kp' and learner.get('kp_equal')
    weights, synapses = dict(config['optimizer']), dict(config['synapse_optimizer'])
    other = sorted(key for key in weights.keys() | synapses.keys() if weights.get(key) != synapses.get(key))
    if other and (starts or learner['name'] == 'kolen_pollack'):
        what = [f'{key} of {synapses.get(key)} in place of {weights.get(key)}' for key in other]
        told = 'start as the weights, but leave them' if starts else 'meet the weights by the same steps alone'
        _LOG.warning('synapses %s: synapse_optimizer has a %s', told, ', a '.join(what))


def _augment(config: Any, dataset: Dataset) -> Augment | None:
    require_count('augment.pad', config['augment']['pad'], low=0)
    augment, shape = make_augment(**config['augment']), dataset.train.shape
    if dataset.train.reads == 'tokens':
        require(augment is None, 'augment', 'off for a text', dict(config['augment']))
        return None
    pad, side = config['augment']['pad'], min(shape[:2])
    require(pad < side, 'augment.pad', f'below {side}, so that a crop shows some of its image', pad)
    return augment


def _example(dataset: Dataset, size: int) -> dict[str, jax.Array]:
    """A batch of zeros."""
    split = dataset.train
    if split.reads == 'tokens':
        return {name: jnp.zeros((size, *split.shape), jnp.int32) for name in ('tokens', 'label')}
    return {'image': jnp.zeros((size, *split.shape), jnp.float32), 'label': jnp.zeros((size,), jnp.int32)}


def _flips(config: Any, dataset: Dataset) -> bool:
    """Whether answers are means over an image and its mirror image."""
    flips = config.get('average_flips', False)  # older configs have none
    require(not flips or dataset.train.reads == 'image', 'average_flips', 'False for a text', flips)
    return flips


def _predict(model: nn.Module, learner: Learner, *, flips: bool) -> Answer:
    """What a learner answers; models that tell training from inference take `train`, False unless given."""
    own = learner.predict
    answer: Any = model.apply if own is None else lambda variables, x: own(variables, {'image': x})
    return over_flips(answer) if flips else answer


def _trace(net: Net, step: TrainStep, spread: Spread, example: dict[str, jax.Array]) -> None:
    """Walks through a step without computing it, so that what doesn't fit raises before anything is written."""

    def one_step(key: jax.Array) -> None:
        state = step.init(key, net.init(key))
        spread.update(spread.pack(state), example, key)

    jax.eval_shape(one_step, jax.random.key(0))


def _call(
    table: Mapping[str, Callable[..., Any]], options: Mapping[str, Any], what: str, *args: Any, **given: Any
) -> Any:
    """table[options['name']](*args, **given, **the other options); the error for options lists those there are."""
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in dict(options).items()}
    name = options.pop('name')
    factory = lookup(table, name, what)
    parameters = inspect.signature(factory).parameters
    forwards = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = set(list(parameters)[len(args) :]) - {'name', 'parent', *given}  # flax's own, and what no config says
    unknown = set() if forwards else set(options) - known
    if unknown:
        raise ValueError(f'{what} {name!r} has no option {sorted(unknown)}; it takes {sorted(known) or "none"}')
    try:
        return factory(*args, **given, **options)
    except TypeError as error:
        raise ValueError(f'{what} {name!r}: {error}') from error
