"""What every epoch has, however its examples reach the device: keys, order, what it carries and what it measures."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from rlra_jax.experiment.build import Experiment
from rlra_jax.train_step import TrainState, seed_axes
from rlra_jax.types import Array, Aux, Batch, Variables

SAMPLE = 250  # examples for diagnostics
_TOP = 5  # guesses that the top-5 error allows


class Score(NamedTuple):
    """How a model does on a split."""

    loss: Array  # [] mean, in nats
    error: Array  # [] share of examples classified wrongly, or of a text's characters, 0 to 1
    top5_error: Array  # [] share of those whose class is not among the five most probable


class Run(NamedTuple):
    """Everything that training carries from epoch to epoch; every array has a leading axis of seeds but counters."""

    state: TrainState
    best: Variables  # those of the epoch that validated best so far
    best_error: Array  # float32 [] its validation error, or of a text its validation loss
    best_epoch: Array  # int32 []; 0 before the first


class Moment(NamedTuple):
    """Where training stands between two steps of an epoch; arrays have a leading axis of seeds as in a Run, or none."""

    state: TrainState
    losses: Array  # float32 [steps], of the steps done; then 0
    errors: Array  # float32 [steps]
    seconds: Array  # float32 []: the epoch's training time so far


class Spent(NamedTuple):
    """Where the time of an epoch went, in this sitting."""

    steps: int  # that were taken
    stepping: float  # seconds of these steps, with what they waited for
    waiting: float  # seconds of waiting for examples to be read, to train or to validate


class EpochMetrics(NamedTuple):
    """One epoch of one seed; with a leading axis of seeds where it leaves a Trainable."""

    train_loss: Array  # [] mean over the epoch, measured before each step
    train_error: Array  # [] the same, 0 to 1
    val_loss: Array  # [] after the epoch
    val_error: Array  # []
    val_top5_error: Array  # []
    bad_step: Array  # int32 [] first step whose loss was not finite, from 0; steps_per_epoch: validation; -1: none
    still: Any  # the tree of params: bool [], whether the array did not move at all
    diagnostics: dict[str, Array]  # scalars after the epoch, on the first training examples; {} unless asked for


class Trainable(Protocol):
    """A data set and an experiment, compiled: `scanned.py` and `stepwise.py` each make one."""

    diagnostics: list[str]  # names of EpochMetrics.diagnostics
    seconds_before: float  # that earlier sittings spent on the epoch trained last
    spent: Spent  # of the epoch trained last

    def epoch(self, run: Run, number: int) -> tuple[Run, EpochMetrics]:
        """Trains for an epoch, the number-th from 1; `run` stays as it is."""

    def replay(self, run: Run, index: int, number: int, step: int) -> tuple[TrainState, Batch]:
        """(the state of the index-th seed before a step of an epoch, that step's examples), preprocessed.

        `run` is that of the start of the epoch. The step after the last stands for the validation; its examples are
        some whose loss is not finite.
        """

    def rehearse(self, run: Run, steps: int) -> None:
        """Takes the first steps of an epoch one by one, for a profiler, with the first seed, and forgets them."""

    def scores(self, variables: Variables) -> list[Score]:
        """Scores variables `[seeds, ...]` on the training, validation and test data: arrays `[seeds]`."""


def learn(
    experiment: Experiment, update: Callable[..., tuple[Any, Aux]], state: Any, batch: Batch, key: Array
) -> tuple[Any, tuple[Array, Array]]:
    """update(state, batch, key) on preprocessed examples, augmented if the experiment does.

    Returns:
      (the next state, (mean loss, share of errors) before the step).
    """
    if experiment.augment is not None:
        key_augment, key = jax.random.split(key)
        batch = {**batch, 'image': experiment.augment(key_augment, batch['image'])}
    state, aux = update(state, batch, key)
    return state, (aux.loss, (aux.outputs.argmax(axis=-1) != batch['label']).mean())


def epoch_keys(seed: Array, epoch: Array, steps: int) -> tuple[Array, Array]:
    """(key of the shuffle, keys of the steps) of an epoch: a resumed run draws what an uninterrupted one would."""
    *_, key = _seed_keys(seed)
    shuffle, key_steps = jax.random.split(jax.random.fold_in(key, epoch))
    return shuffle, jax.random.split(key_steps, steps)


def _seed_keys(seed: Array) -> tuple[Array, Array, Array]:
    """Keys of (model, learner, epochs)."""
    model, learner, epochs = jax.random.split(jax.random.key(seed), 3)
    return model, learner, epochs


def epoch_order(seed: Array, epoch: Array, examples: int, steps: int, batch_size: int) -> Array:
    """Which examples each step of an epoch sees: int32 [steps, batch_size]."""
    return shuffled(epoch_keys(seed, epoch, steps)[0], examples, steps, batch_size)


def shuffled(key: Array, examples: int, steps: int, batch_size: int) -> Array:
    """Each of so many examples once, as far as steps go: int32 [steps, batch_size]."""
    return jax.random.permutation(key, examples)[: steps * batch_size].reshape(steps, batch_size)


def init_run(experiment: Experiment, seed: Array) -> Run:
    """The start of one seed's run."""
    key_model, key_learner, _ = _seed_keys(seed)
    variables = {**experiment.net.init(key_model), **experiment.fitted}
    state = experiment.step.init(key_learner, variables)
    return Run(state, variables, jnp.asarray(jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))


def init_runs(experiment: Experiment, seeds: Array) -> Run:
    """The start of several seeds' runs."""
    init = functools.partial(init_run, experiment)
    return jax.vmap(init, out_axes=run_axes(jax.eval_shape(init, seeds[0])))(seeds)


def end_epoch(
    experiment: Experiment,
    run: Run,
    state: TrainState,
    steps: tuple[Array, Array],
    score: Score,
    number: Array,
    sample: Batch | None,
    key: Array,
) -> tuple[Run, EpochMetrics]:
    """What an epoch of one seed returns.

    Args:
      experiment: what was trained.
      run: of the start of the epoch.
      state: of its end.
      steps: loss and error of each step.
      score: on the validation data.
      number: of the epoch, from 1.
      sample: examples for diagnostics, if the experiment has any.
      key: of the diagnostics.
    """
    losses, errors = steps
    finite = jnp.append(jnp.isfinite(losses), jnp.isfinite(score.loss))
    bad_step = jnp.where(finite.all(), -1, jnp.argmin(finite))
    still = jax.tree.map(lambda a, b: (a == b).all(), run.state.weights['params'], state.weights['params'])
    told = {} if experiment.diagnose is None else experiment.diagnose(state.weights, state.state, sample, key)
    metrics = EpochMetrics(losses.mean(), errors.mean(), *score, bad_step, still, told)
    judged_by = score.loss if experiment.reads == 'tokens' else score.error
    return _keep_best(run, state, judged_by, number), metrics


def _keep_best(run: Run, state: TrainState, val_error: Array, number: Array) -> Run:
    val_error = val_error.astype(run.best_error.dtype)  # compiled epochs take what they gave, in 64 bits too
    better = val_error < run.best_error
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.variables, run.best)
    return Run(state, best, jnp.where(better, val_error, run.best_error), jnp.where(better, number, run.best_epoch))


def total_score(logits: Array, label: Array) -> Score:
    """A batch's Score times the number of its labels; those of -1 do not count.

    Args:
      logits: `[..., classes]`.
      label: int `[...]`.
    """
    logits, label = logits.reshape(-1, logits.shape[-1]).astype(jnp.float32), label.reshape(-1)
    counts, label = label >= 0, jnp.maximum(label, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    _, guesses = jax.lax.top_k(logits, min(_TOP, logits.shape[1]))
    wrong = (guesses != label[:, None]) & counts[:, None]
    return Score(jnp.where(counts, losses, 0).sum(), wrong[:, 0].sum(), wrong.all(axis=1).sum())


def one_seed(run: Run, index: int) -> Run:
    """The Run of one of its seeds."""
    axes = run_axes(run)
    return jax.tree.map(lambda axis, x: x if axis is None else x[index], axes, run, is_leaf=lambda n: n is None)


def lone_seed(run: Run) -> Run:
    """One seed's Run as a Run of several seeds, of which it is the only one."""
    axes = run_axes(run)
    return jax.tree.map(lambda axis, x: x if axis is None else x[None], axes, run, is_leaf=lambda n: n is None)


def run_axes(run: Run) -> Run:
    """The vmap axes of a Run over seeds."""
    return jax.tree.map(lambda _: 0, run)._replace(state=seed_axes(run.state))


def moment_axes(run: Run) -> Moment:
    """The vmap axes of a Moment of this Run over seeds."""
    each: Any = 0
    shared: Any = None
    return Moment(seed_axes(run.state), each, each, shared)
