"""A whole epoch as one jitted computation over data that stays on the device."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.data import Dataset, Split
from rlra_jax.experiment.epoch import (
    SAMPLE,
    EpochMetrics,
    Run,
    Score,
    Spent,
    end_epoch,
    epoch_keys,
    epoch_order,
    learn,
    lone_seed,
    one_seed,
    run_axes,
    total_score,
)
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.parallel.mesh import batch_sharding, replicate, replicated, shares
from rlra_jax.train_step import TrainState
from rlra_jax.types import Array, Aux, Batch, Variables

_CHUNK = 1000  # examples evaluated at a time


class Examples(NamedTuple):
    """A split on the device. A pytree."""

    image: Array  # uint8 or floating [N, height, width, channels], as stored
    label: Array  # int32 [N]
    preprocess: Preprocess  # what the model's images are made by


class Scanned:
    """A Trainable whose data lies on every device; seeds train side by side."""

    seconds_before = 0.0
    spent: Spent | None = None

    def __init__(self, experiment: Experiment, dataset: Dataset, preprocess: Preprocess, seeds: np.ndarray, run: Run):
        self.experiment, self.seeds = experiment, seeds
        splits = (put(s, preprocess, experiment.spread.mesh) for s in (dataset.train, dataset.val, dataset.test))
        self.train, self.val, self.test = splits
        epoch = jax.jit(over_seeds(make_epoch(experiment), run), out_shardings=replicated(experiment.spread.mesh))
        lowered = epoch.lower(run, *self._inputs(1))
        self._epoch = lowered.compile()  # which cannot compile again
        self._step = jax.jit(make_step(experiment))
        self.diagnostics = sorted(lowered.out_info[1].diagnostics)

    def _inputs(self, number: int) -> tuple[Any, ...]:
        return self.train, self.val, self.seeds, np.int32(number)

    def epoch(self, run: Run, number: int) -> tuple[Run, EpochMetrics]:
        return self._epoch(run, *self._inputs(number))

    def replay(self, run: Run, index: int, number: int, step: int) -> tuple[TrainState, Batch]:
        experiment, seed, epoch = self.experiment, jnp.int32(self.seeds[index]), jnp.int32(number)
        steps, size = experiment.steps_per_epoch, experiment.example['label'].shape[0]
        order = epoch_order(seed, epoch, self.train.label.shape[0], steps, size)
        _, keys = epoch_keys(seed, epoch, steps)

        @jax.jit
        def replay(state: TrainState, train: Examples) -> TrainState:
            def body(i, state):
                return learn(experiment, experiment.step.update, state, batch_at(train, order[i]), keys[i])[0]

            return jax.lax.fori_loop(0, step, body, state)

        state = replay(one_seed(run, index).state, self.train)
        if step == steps:
            return state, batch_at(self.val, jnp.arange(self.val.label.shape[0]))
        return state, batch_at(self.train, order[step])

    def rehearse(self, run: Run, steps: int) -> None:
        seed, number, whole = jnp.int32(self.seeds[0]), jnp.int32(1), self.experiment.steps_per_epoch
        order = epoch_order(seed, number, self.train.label.shape[0], whole, self.experiment.example['label'].shape[0])
        _, keys = epoch_keys(seed, number, whole)
        packed = jax.jit(self.experiment.spread.pack)(one_seed(run, 0).state)
        for at in range(steps):
            with jax.profiler.StepTraceAnnotation('train', step_num=at):
                packed, _ = jax.block_until_ready(self._step(packed, self.train, order[at], keys[at]))

    def scores(self, variables: Variables) -> list[Score]:
        mesh = self.experiment.spread.mesh

        @functools.partial(jax.jit, out_shardings=replicated(mesh))
        @functools.partial(jax.vmap, in_axes=(0, None))
        def scores(variables, splits):
            return [evaluate(self.experiment.predict, variables, examples, mesh) for examples in splits]

        return scores(variables, (self.train, self.val, self.test))


def put(split: Split, preprocess: Preprocess, mesh: Mesh) -> Examples:
    """Puts a copy of a split on every device."""
    return replicate(mesh, Examples(split.image, split.label.astype(np.int32), preprocess))


def batch_at(examples: Examples, index: Array) -> Batch:
    """The examples of the given indices, preprocessed."""
    return {'image': examples.preprocess(examples.image[index]), 'label': examples.label[index]}


def make_step(experiment: Experiment) -> Callable[[Any, Examples, Array, Array], tuple[Any, Aux]]:
    """step(packed state, train, indices of the step's examples, key) -> (packed state, aux), for one seed."""
    spread = experiment.spread

    def step(packed: Any, train: Examples, index: Array, key: Array) -> tuple[Any, Aux]:
        batch = batch_at(train, jax.lax.with_sharding_constraint(index, batch_sharding(spread.mesh)))
        return learn(experiment, spread.update, packed, batch, key)

    return step


def make_epoch(
    experiment: Experiment,
) -> Callable[[Run, Examples, Examples, Array, Array], tuple[Run, EpochMetrics]]:
    """epoch(run, train, val, seed, epoch number from 1) -> (run, metrics), for one seed."""
    size, spread = experiment.example['label'].shape[0], experiment.spread
    one_step = make_step(experiment)

    def epoch(run: Run, train: Examples, val: Examples, seed: Array, number: Array) -> tuple[Run, EpochMetrics]:
        order = epoch_order(seed, number, train.label.shape[0], experiment.steps_per_epoch, size)
        _, keys = epoch_keys(seed, number, experiment.steps_per_epoch)

        def step(packed: Any, at: tuple[Array, Array]):
            index, key = at
            return one_step(packed, train, index, key)

        packed, steps = jax.lax.scan(step, spread.pack(run.state), (order, keys))
        state = spread.unpack(packed)
        score = evaluate(experiment.predict, state.variables, val, spread.mesh)
        sample = batch_at(train, jnp.arange(min(SAMPLE, train.label.shape[0])))
        return end_epoch(experiment, run, state, steps, score, number, sample, keys[-1])

    return epoch


def over_seeds(function: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """Maps an epoch function over the seeds that `run` holds: by vmap, but one alone as it is."""
    axes = run_axes(run)
    if len(run.best_epoch) > 1:
        return jax.vmap(function, in_axes=(axes, None, None, 0, None), out_axes=(axes, 0))

    def alone(run: Run, train: Examples, val: Examples, seeds: Array, number: Array) -> tuple[Run, EpochMetrics]:
        run, metrics = function(one_seed(run, 0), train, val, seeds[0], number)
        return lone_seed(run), jax.tree.map(lambda x: x[None], metrics)

    return alone


def evaluate(
    predict: Callable[[Variables, Array], Array], variables: Variables, examples: Examples, mesh: Mesh
) -> Score:
    """Scores a model in inference, in chunks so that memory stays small; the mesh shares each but the last."""
    total = examples.label.shape[0]
    chunk = max(min(_CHUNK, total) // shares(mesh), 1) * shares(mesh)
    whole = total // chunk * chunk

    def sums(index: Array) -> Score:
        batch = batch_at(examples, index)
        return total_score(predict(variables, batch['image']), batch['label'])

    def shared(index: Array) -> Score:
        return sums(jax.lax.with_sharding_constraint(index, batch_sharding(mesh)))

    score = jax.tree.map(jnp.sum, jax.lax.map(shared, jnp.arange(whole).reshape(-1, chunk)))
    if whole < total:
        score = jax.tree.map(jnp.add, score, sums(jnp.arange(whole, total)))
    return jax.tree.map(lambda x: x / total, score)
