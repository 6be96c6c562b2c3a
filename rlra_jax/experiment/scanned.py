"""An epoch as a compiled loop over data that stays on the device."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlra_jax.experiment import stops
from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.checkpoint import Moments
from rlra_jax.experiment.data import Dataset, Split
from rlra_jax.experiment.epoch import (
    SAMPLE,
    EpochMetrics,
    Moment,
    Run,
    Score,
    Spent,
    end_epoch,
    epoch_keys,
    learn,
    moment_axes,
    one_seed,
    run_axes,
    shuffled,
    total_score,
)
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.text import Text
from rlra_jax.parallel.mesh import batch_sharding, replicate, replicated, shares
from rlra_jax.train_step import TrainState
from rlra_jax.types import Array, Batch, Variables

_CHUNK = 1000  # labels evaluated at a time


class Examples(NamedTuple):
    """A split of images on the device, with what a `Text` has, too. A pytree."""

    image: Array  # uint8 or floating [N, height, width, channels], as stored
    label: Array  # int32 [N]
    preprocess: Preprocess  # what the model's images are made by

    @property
    def reads(self) -> str:
        """The entry of a batch that models are called on."""
        return 'image'

    @property
    def each(self) -> int:
        """How many labels an example has."""
        return 1

    @property
    def answers(self) -> int:
        """How many labels there are."""
        return self.label.shape[0]

    @property
    def places(self) -> Array:
        """Every example once."""
        return jnp.arange(self.answers)

    def order(self, key: Array, steps: int, batch_size: int) -> Array:
        """Which examples each step of an epoch sees: int32 [steps, batch_size]."""
        return shuffled(key, self.answers, steps, batch_size)

    def at(self, index: Array) -> Batch:
        """The examples of the given indices, preprocessed."""
        return {'image': self.preprocess(self.image[index]), 'label': self.label[index]}


Stored = Examples | Text  # a split on the device


class Epoch(NamedTuple):
    """An epoch of one seed, in parts."""

    start: Callable[[Run], Moment]
    advance: Callable[..., Moment]  # (Moment, train, seed, epoch number from 1, steps done, steps to be done)
    end: Callable[..., tuple[Run, EpochMetrics]]  # (the Run of the start, Moment of the end, train, val, seed, number)

    def whole(
        self, run: Run, train: Stored, val: Stored, seed: Array, number: Array, steps: int
    ) -> tuple[Run, EpochMetrics]:
        """All of it."""
        moment = self.advance(self.start(run), train, seed, number, 0, steps)
        return self.end(run, moment, train, val, seed, number)


class Scanned:
    """A Trainable whose data lies on every device; seeds train side by side.

    The loop over an epoch's steps pauses every few seconds: it can stop there, with a Moment.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        preprocess: Preprocess,
        seeds: np.ndarray,
        run: Run,
        moments: Moments,
    ):
        self.experiment, self.seeds, self.moments = experiment, seeds, moments
        splits = (put(s, preprocess, experiment.spread.mesh) for s in (dataset.train, dataset.val, dataset.test))
        self.train, self.val, self.test = splits
        self.seconds_before, self.spent, self._watch = 0.0, Spent(0, 0.0, 0.0), stops.Watch()
        self._step = jax.jit(make_step(experiment))
        self._programs, self.diagnostics = self._compile(run)

    def _compile(self, run: Run) -> tuple[Epoch, list[str]]:
        """(the programs, which cannot compile again; the names of the diagnostics)."""
        count, whole = len(self.seeds), replicated(self.experiment.spread.mesh)
        runs, moments, parts = run_axes(run), moment_axes(run), make_epoch(self.experiment)
        start = jax.jit(over_seeds(parts.start, count, (runs,), moments), out_shardings=whole).lower(run).compile()
        moment = start(run)
        advance = over_seeds(parts.advance, count, (moments, None, 0, None, None, None), moments)
        inputs = moment, self.train, self.seeds, *map(np.int32, (1, 0, 1))
        advance = jax.jit(advance, out_shardings=whole, donate_argnums=0).lower(*inputs).compile()
        end = over_seeds(parts.end, count, (runs, moments, None, None, 0, None), (runs, 0))
        inputs = run, moment, self.train, self.val, self.seeds, np.int32(1)
        lowered = jax.jit(end, out_shardings=whole).lower(*inputs)
        return Epoch(start, advance, lowered.compile()), sorted(lowered.out_info[1].diagnostics)

    def epoch(self, run: Run, number: int) -> tuple[Run, EpochMetrics]:
        started, steps = time.perf_counter(), self.experiment.steps_per_epoch
        begun, moment = self.moments.restore(number, self._programs.start(run))
        done, self.seconds_before = begun, float(moment.seconds)
        self._watch.begin(done)
        while done < steps:
            to = min(self._watch.next, self.moments.next_due(done), steps)
            moment = self._programs.advance(moment, self.train, self.seeds, *map(np.int32, (number, done, to)))
            done = to
            if not np.isfinite(moment.losses).all():
                break
            stop = self._watch.asked(done) and done < steps
            if stop or self.moments.due(done):
                seconds = self.seconds_before + time.perf_counter() - started
                self.moments.save(number, done, moment._replace(seconds=jnp.float32(seconds)))
            if stop:
                raise stops.StoppedError.within(number, done, steps)
        self.spent = Spent(done - begun, time.perf_counter() - started, 0.0)
        return self._programs.end(run, moment, self.train, self.val, self.seeds, np.int32(number))

    def replay(self, run: Run, index: int, number: int, step: int) -> tuple[TrainState, Batch]:
        experiment, steps = self.experiment, self.experiment.steps_per_epoch
        order, keys = plan(experiment, self.train, jnp.int32(self.seeds[index]), jnp.int32(number))

        @jax.jit
        def replay(state: TrainState, train: Stored) -> TrainState:
            def body(i, state):
                return learn(experiment, experiment.step.update, state, train.at(order[i]), keys[i])[0]

            return jax.lax.fori_loop(0, step, body, state)

        state = replay(one_seed(run, index).state, self.train)
        if step == steps:
            return state, self.val.at(self.val.places)
        return state, self.train.at(order[step])

    def rehearse(self, run: Run, steps: int) -> None:
        order, keys = plan(self.experiment, self.train, jnp.int32(self.seeds[0]), jnp.int32(1))
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


def put(split: Split | Text, preprocess: Preprocess, mesh: Mesh) -> Stored:
    """Puts a copy of a split on every device."""
    if isinstance(split, Text):
        return replicate(mesh, split)
    return replicate(mesh, Examples(split.image, split.label.astype(np.int32), preprocess))


def plan(experiment: Experiment, train: Stored, seed: Array, number: Array) -> tuple[Array, Array]:
    """(which examples each step of an epoch sees, int32 [steps, batch size]; each step's key)."""
    steps = experiment.steps_per_epoch
    shuffle, keys = epoch_keys(seed, number, steps)
    return train.order(shuffle, steps, experiment.example['label'].shape[0]), keys


def make_step(experiment: Experiment) -> Callable[[Any, Stored, Array, Array], tuple[Any, tuple[Array, Array]]]:
    """step(packed state, train, indices of examples, key) -> (packed state, (loss, error) before it), for one seed."""
    spread = experiment.spread

    def step(packed: Any, train: Stored, index: Array, key: Array) -> tuple[Any, tuple[Array, Array]]:
        batch = train.at(jax.lax.with_sharding_constraint(index, batch_sharding(spread.mesh)))
        return learn(experiment, spread.update, packed, batch, key)

    return step


def make_epoch(experiment: Experiment) -> Epoch:
    """What an epoch of one seed computes; not compiled."""
    steps, spread = experiment.steps_per_epoch, experiment.spread
    one_step = make_step(experiment)

    def start(run: Run) -> Moment:
        nothing = jnp.zeros(steps, jnp.float32)
        # A copy, since `advance` may be given away what it gets.
        return Moment(jax.tree.map(jnp.copy, run.state), nothing, nothing, jnp.float32(0))

    def advance(moment: Moment, train: Stored, seed: Array, number: Array, done: Array, to: Array) -> Moment:
        order, keys = plan(experiment, train, seed, number)

        def step(at: Array, carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
            packed, losses, errors = carry
            packed, (loss, error) = one_step(packed, train, order[at], keys[at])
            return packed, losses.at[at].set(loss), errors.at[at].set(error)

        packed, losses, errors = jax.lax.fori_loop(
            done, to, step, (spread.pack(moment.state), moment.losses, moment.errors)
        )
        return Moment(spread.unpack(packed), losses, errors, moment.seconds)

    def end(run: Run, moment: Moment, train: Stored, val: Stored, seed: Array, number: Array):
        *_, key = epoch_keys(seed, number, steps)[1]
        score = evaluate(experiment.predict, moment.state.variables, val, spread.mesh)
        sample = train.at(train.places[: max(SAMPLE // train.each, 1)])
        return end_epoch(experiment, run, moment.state, (moment.losses, moment.errors), score, number, sample, key)

    return Epoch(start, advance, end)


def over_seeds(function: Callable[..., Any], count: int, in_axes: Any, out_axes: Any) -> Callable[..., Any]:
    """Maps a function over so many seeds: by vmap, but one alone as it is. Axes are those of jax.vmap."""
    if count > 1:
        return jax.vmap(function, in_axes, out_axes)

    def alone(*args: Any) -> Any:
        return _by_axis(lambda leaf: leaf[None], out_axes, function(*_by_axis(lambda leaf: leaf[0], in_axes, args)))

    return alone


def _by_axis(change: Callable[[Array], Array], axes: Any, tree: Any) -> Any:
    """Changes the leaves that have an axis of seeds."""

    def changed(axis: int | None, part: Any) -> Any:
        return part if axis is None else jax.tree.map(change, part)

    return jax.tree.map(changed, axes, tree, is_leaf=lambda node: node is None)


def evaluate(predict: Callable[[Variables, Array], Array], variables: Variables, examples: Stored, mesh: Mesh) -> Score:
    """Scores a model in inference, in chunks so that memory stays small; the mesh shares each but the last."""
    total = len(examples.places)
    chunk = max(min(_CHUNK // examples.each, total) // shares(mesh), 1) * shares(mesh)
    whole = total // chunk * chunk

    def sums(index: Array) -> Score:
        batch = examples.at(index)
        return total_score(predict(variables, batch[examples.reads]), batch['label'])

    def shared(index: Array) -> Score:
        return sums(jax.lax.with_sharding_constraint(index, batch_sharding(mesh)))

    score = jax.tree.map(jnp.sum, jax.lax.map(shared, examples.places[:whole].reshape(-1, chunk)))
    if whole < total:
        score = jax.tree.map(jnp.add, score, sums(examples.places[whole:]))
    return jax.tree.map(lambda x: x / examples.answers, score)
