"""A whole epoch as one jitted computation over data that stays on the device."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.data import Split
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.parallel.mesh import batch_sharding, replicate, shares
from rlra_jax.train_step import TrainState, seed_axes
from rlra_jax.types import Array, Aux, Batch, Variables

_CHUNK = 1000  # examples evaluated at a time
_SAMPLE = 250  # examples for diagnostics
_TOP = 5  # guesses that the top-5 error allows


class Examples(NamedTuple):
    """A split on the device. A pytree."""

    image: Array  # uint8 or floating [N, height, width, channels], as stored
    label: Array  # int32 [N]
    preprocess: Preprocess  # what the model's images are made by


class Score(NamedTuple):
    """How a model does on a split."""

    loss: Array  # [] mean, in nats
    error: Array  # [] share of examples classified wrongly, 0 to 1
    top5_error: Array  # [] share of examples whose class is not among the five most probable


class Run(NamedTuple):
    """Everything that training carries from epoch to epoch; every array has a leading axis of seeds but counters."""

    state: TrainState
    best: Variables  # those of the epoch with the lowest validation error so far
    best_error: Array  # float32 []
    best_epoch: Array  # int32 []; 0 before the first


class EpochMetrics(NamedTuple):
    """One epoch of one seed."""

    train_loss: Array  # [] mean over the epoch, measured before each step
    train_error: Array  # [] the same, 0 to 1
    val_loss: Array  # [] after the epoch
    val_error: Array  # []
    val_top5_error: Array  # []
    bad_step: Array  # int32 [] first step whose loss was not finite, from 0; steps_per_epoch: validation; -1: none
    still: Any  # the tree of params: bool [], whether the array did not move at all
    diagnostics: dict[str, Array]  # scalars after the epoch, on the first training examples; {} unless asked for


def put(split: Split, preprocess: Preprocess, mesh: Mesh) -> Examples:
    """Puts a copy of a split on every device."""
    return replicate(mesh, Examples(split.image, split.label.astype(np.int32), preprocess))


def batch_at(examples: Examples, index: Array) -> Batch:
    """The examples of the given indices, preprocessed."""
    return {'image': examples.preprocess(examples.image[index]), 'label': examples.label[index]}


def learn(experiment: Experiment, update: Callable[..., tuple[Any, Aux]], state: Any, batch: Batch, key: Array):
    """update(state, batch, key) on preprocessed examples, augmented if the experiment does."""
    if experiment.augment is not None:
        key_augment, key = jax.random.split(key)
        batch = {**batch, 'image': experiment.augment(key_augment, batch['image'])}
    return update(state, batch, key)


def epoch_keys(seed: Array, epoch: Array) -> tuple[Array, Array]:
    """(key of the shuffle, key of the steps) of an epoch: a resumed run draws what an uninterrupted one would."""
    *_, key = _seed_keys(seed)
    shuffle, steps = jax.random.split(jax.random.fold_in(key, epoch))
    return shuffle, steps


def _seed_keys(seed: Array) -> tuple[Array, Array, Array]:
    """Keys of (model, learner, epochs)."""
    model, learner, epochs = jax.random.split(jax.random.key(seed), 3)
    return model, learner, epochs


def epoch_order(seed: Array, epoch: Array, examples: int, steps: int, batch_size: int) -> Array:
    """Which examples each step of an epoch sees: int32 [steps, batch_size]."""
    shuffle, _ = epoch_keys(seed, epoch)
    return jax.random.permutation(shuffle, examples)[: steps * batch_size].reshape(steps, batch_size)


def init_run(experiment: Experiment, seed: Array) -> Run:
    """The start of one seed's run."""
    key_model, key_learner, _ = _seed_keys(seed)
    variables = dict(experiment.model.init(key_model, experiment.example['image']))
    state = experiment.step.init(key_learner, variables, experiment.example)
    return Run(state, variables, jnp.asarray(jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))


def make_epoch(
    experiment: Experiment,
) -> Callable[[Run, Examples, Examples, Array, Array], tuple[Run, EpochMetrics]]:
    """epoch(run, train, val, seed, epoch number from 1) -> (run, metrics), for one seed."""
    size, spread = experiment.example['label'].shape[0], experiment.spread

    def epoch(run: Run, train: Examples, val: Examples, seed: Array, number: Array) -> tuple[Run, EpochMetrics]:
        order = epoch_order(seed, number, train.label.shape[0], experiment.steps_per_epoch, size)
        keys = jax.random.split(epoch_keys(seed, number)[1], experiment.steps_per_epoch)

        def step(packed: Any, at: tuple[Array, Array]):
            index, key = at
            batch = batch_at(train, jax.lax.with_sharding_constraint(index, batch_sharding(spread.mesh)))
            packed, aux = learn(experiment, spread.update, packed, batch, key)
            return packed, (aux.loss, aux.error)

        packed, (losses, errors) = jax.lax.scan(step, spread.pack(run.state), (order, keys))
        state = spread.unpack(packed)
        score = evaluate(experiment.predict, state.variables, val, spread.mesh)
        finite = jnp.append(jnp.isfinite(losses), jnp.isfinite(score.loss))
        bad_step = jnp.where(finite.all(), -1, jnp.argmin(finite))
        still = jax.tree.map(lambda a, b: (a == b).all(), run.state.variables['params'], state.variables['params'])
        told = {}
        if experiment.diagnose is not None:
            sample = batch_at(train, jnp.arange(min(_SAMPLE, train.label.shape[0])))
            told = experiment.diagnose(state.variables, state.feedback, sample, keys[-1])
        metrics = EpochMetrics(losses.mean(), errors.mean(), *score, bad_step, still, told)
        return _keep_best(run, state, score.error, number), metrics

    return epoch


def over_seeds(function: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """Maps an epoch function over the seeds that `run` holds: by vmap, but one alone as it is."""
    axes = run_axes(run)
    if len(run.best_epoch) > 1:
        return jax.vmap(function, in_axes=(axes, None, None, 0, None), out_axes=(axes, 0))

    def alone(run: Run, train: Examples, val: Examples, seeds: Array, number: Array) -> tuple[Run, EpochMetrics]:
        run, metrics = function(one_seed(run, 0), train, val, seeds[0], number)
        many = jax.tree.map(lambda axis, x: x if axis is None else x[None], axes, run, is_leaf=lambda n: n is None)
        return many, jax.tree.map(lambda x: x[None], metrics)

    return alone


def one_seed(run: Run, index: int) -> Run:
    """The Run of one of its seeds."""
    axes = run_axes(run)
    return jax.tree.map(lambda axis, x: x if axis is None else x[index], axes, run, is_leaf=lambda n: n is None)


def run_axes(run: Run) -> Run:
    """The vmap axes of a Run over seeds."""
    return jax.tree.map(lambda _: 0, run)._replace(state=seed_axes(run.state))


def evaluate(
    predict: Callable[[Variables, Array], Array], variables: Variables, examples: Examples, mesh: Mesh
) -> Score:
    """Scores a model in inference, in chunks so that memory stays small; the mesh shares each but the last."""
    total = examples.label.shape[0]
    chunk = max(min(_CHUNK, total) // shares(mesh), 1) * shares(mesh)
    whole = total // chunk * chunk

    def sums(index: Array) -> Score:
        batch = batch_at(examples, index)
        return _sums(predict(variables, batch['image']), batch['label'])

    def shared(index: Array) -> Score:
        return sums(jax.lax.with_sharding_constraint(index, batch_sharding(mesh)))

    score = jax.tree.map(jnp.sum, jax.lax.map(shared, jnp.arange(whole).reshape(-1, chunk)))
    if whole < total:
        score = jax.tree.map(jnp.add, score, sums(jnp.arange(whole, total)))
    return jax.tree.map(lambda x: x / total, score)


def _sums(logits: Array, label: Array) -> Score:
    """A batch's Score times its size."""
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    _, guesses = jax.lax.top_k(logits, min(_TOP, logits.shape[1]))
    wrong = guesses != label[:, None]
    return Score(losses.sum(), wrong[:, 0].sum(), wrong.all(axis=1).sum())


def _keep_best(run: Run, state: TrainState, val_error: Array, number: Array) -> Run:
    better = val_error < run.best_error
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.variables, run.best)
    return Run(state, best, jnp.where(better, val_error, run.best_error), jnp.where(better, number, run.best_epoch))
