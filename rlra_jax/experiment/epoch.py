"""A whole epoch as one jitted computation over data that stays on the device."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.data import Split
from rlra_jax.train_step import TrainState, seed_axes
from rlra_jax.types import Array, Batch, Variables

_CHUNK = 1000  # examples evaluated at a time


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
    bad_step: Array  # int32 [] first step whose loss was not finite, from 0; steps_per_epoch: validation; -1: none
    still: Any  # the tree of params: bool [], whether the array did not move at all


def batch_at(split: Split, index: Array, scale: float) -> Batch:
    """The examples of the given indices, scaled to [0, 1]."""
    return {'image': split.image[index].astype(jnp.float32) * scale, 'label': split.label[index]}


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
    experiment: Experiment, scale: float
) -> Callable[[Run, Split, Split, Array, Array], tuple[Run, EpochMetrics]]:
    """epoch(run, train, val, seed, epoch number from 1) -> (run, metrics), for one seed."""
    size = experiment.example['label'].shape[0]

    def epoch(run: Run, train: Split, val: Split, seed: Array, number: Array) -> tuple[Run, EpochMetrics]:
        order = epoch_order(seed, number, train.label.shape[0], experiment.steps_per_epoch, size)
        keys = jax.random.split(epoch_keys(seed, number)[1], experiment.steps_per_epoch)

        def step(state: TrainState, at: tuple[Array, Array]):
            index, key = at
            state, aux = experiment.step.update(state, batch_at(train, index, scale), key)
            return state, (aux.loss, aux.error)

        state, (losses, errors) = jax.lax.scan(step, run.state, (order, keys))
        val_loss, val_error = evaluate(experiment.predict, state.variables, val, scale)
        finite = jnp.append(jnp.isfinite(losses), jnp.isfinite(val_loss))
        bad_step = jnp.where(finite.all(), -1, jnp.argmin(finite))
        still = jax.tree.map(lambda a, b: (a == b).all(), run.state.variables['params'], state.variables['params'])
        metrics = EpochMetrics(losses.mean(), errors.mean(), val_loss, val_error, bad_step, still)
        return _keep_best(run, state, val_error, number), metrics

    return epoch


def over_seeds(function: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """Vmaps an epoch function over the seeds that `run` holds; the counters stay unbatched."""
    axes = run_axes(run)
    return jax.vmap(function, in_axes=(axes, None, None, 0, None), out_axes=(axes, 0))


def run_axes(run: Run) -> Run:
    """The vmap axes of a Run over seeds."""
    return jax.tree.map(lambda _: 0, run)._replace(state=seed_axes(run.state))


def evaluate(
    predict: Callable[[Variables, Array], Array], variables: Variables, split: Split, scale: float
) -> tuple[Array, Array]:
    """(mean loss in nats, share of errors) of a split, in chunks so that memory stays small."""
    total = split.label.shape[0]
    chunk = min(_CHUNK, total)
    whole = total // chunk * chunk

    def sums(index: Array) -> tuple[Array, Array]:
        batch = batch_at(split, index, scale)
        logits = predict(variables, batch['image']).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
        return losses.sum(), (logits.argmax(axis=1) != batch['label']).sum()

    loss, wrong = jax.lax.map(sums, jnp.arange(whole).reshape(-1, chunk))
    loss, wrong = loss.sum(), wrong.sum()
    if whole < total:
        last_loss, last_wrong = sums(jnp.arange(whole, total))
        loss, wrong = loss + last_loss, wrong + last_wrong
    return loss / total, wrong / total


def _keep_best(run: Run, state: TrainState, val_error: Array, number: Array) -> Run:
    better = val_error < run.best_error
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.variables, run.best)
    return Run(state, best, jnp.where(better, val_error, run.best_error), jnp.where(better, number, run.best_epoch))
