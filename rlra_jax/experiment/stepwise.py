"""An epoch step by step, over batches that are read as it goes on: for data that is too large for the device.

Each process reads the rows of a batch that its devices take. No step waits for the one before: what steps measure stays
on the device until the epoch has ended, or until a Moment of it is saved.
"""

import collections
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.experiment import stops
from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.checkpoint import Moments
from rlra_jax.experiment.data import Dataset
from rlra_jax.experiment.epoch import (
    SAMPLE,
    EpochMetrics,
    Moment,
    Run,
    Score,
    Spent,
    end_epoch,
    epoch_keys,
    epoch_order,
    learn,
    lone_seed,
    one_seed,
    total_score,
)
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.progress import progress
from rlra_jax.experiment.records import HostBatch, Records
from rlra_jax.parallel.mesh import own_rows, replicate, replicated, shard_batch
from rlra_jax.train_step import TrainState
from rlra_jax.types import Array, Batch, Variables

_AHEAD = 2  # programs that the device is given before it has finished one: more would only keep more batches there
_ZERO: Any = np.float32(0)
_ZEROS: tuple[Any, ...] = _ZERO, np.int32(0), np.int32(0)
_NOTHING = Score(*_ZEROS)


class Progress(NamedTuple):
    """An epoch under way. A pytree."""

    packed: Any  # the state, as `Spread.pack` makes it
    losses: Array  # float32 [steps], of the steps done
    errors: Array  # float32 [steps]
    done: Array  # int32 []


class Programs(NamedTuple):
    """An epoch's parts, compiled."""

    start: Callable[..., Moment]  # (run)
    begin: Callable[..., Any]  # (Moment, steps done, seed, number) -> (Progress, keys of the steps)
    step: Callable[..., Any]  # (Progress, which is given away, batch as stored, keys) -> (Progress, the step's loss)
    stop: Callable[..., Moment]  # (Progress, seconds)
    add: Callable[..., Score]  # (sums over examples, variables, batch as stored) -> the sums with the batch's
    end: Callable[..., Any]  # (run, Progress, state, sums, number, keys, sample) -> (Run, EpochMetrics)


class Stepwise:
    """A Trainable whose data is read as training goes on; of one seed."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        preprocess: Preprocess,
        seeds: np.ndarray,
        run: Run,
        moments: Moments,
    ):
        (self.seed,) = seeds
        self.train, self.val, self.test = dataset.train, dataset.val, dataset.test
        self.experiment, self.preprocess, self.mesh = experiment, preprocess, experiment.spread.mesh
        self.steps, self.size = experiment.steps_per_epoch, len(experiment.example['label'])
        self.rows = own_rows(self.mesh, self.size)
        self.sample = self._read_sample() if experiment.diagnose else {}
        batch = {'image': np.zeros((len(self.rows), *self.train.shape), np.uint8), 'label': self.rows.astype(np.int32)}
        example = shard_batch(self.mesh, batch)
        self.programs, told = _compile(self, run, example)
        self.diagnostics = sorted(told)
        self.moments, self.seconds_before, self._watch = moments, 0.0, stops.Watch()
        self.spent, self._taken, self._waiting = Spent(0, 0.0, 0.0), 0, 0.0

    def epoch(self, run: Run, number: int) -> tuple[Run, EpochMetrics]:
        started, self._taken, self._waiting = time.perf_counter(), 0, 0.0
        progress, keys = self._advance(run, number, self.steps)
        state = self.programs.stop(progress, _ZERO).state
        whole = bool(progress.done == self.steps)  # once all steps are done on the device
        stepping, taken = time.perf_counter() - started, self._taken
        total = self._total(self.val, state.variables) if whole else _NOTHING
        self.spent = Spent(taken, stepping, self._waiting)
        return self.programs.end(run, progress, state, total, np.int32(number), keys, self.sample)

    def replay(self, run: Run, index: int, number: int, step: int) -> tuple[TrainState, Batch]:
        progress, _ = self._advance(run, number, step)
        state = self.programs.stop(progress, _ZERO).state
        if step < self.steps:
            suspects = self._batches(self.train, self._order(number)[step : step + 1], number)
        else:
            suspects = self._batches(self.val, self._in_turn(self.val))
        for batch in suspects:
            if not np.isfinite(self.programs.add(_NOTHING, state.variables, batch).loss):
                break
        return state, prepared(self.preprocess, batch)

    def rehearse(self, run: Run, steps: int) -> None:
        progress, keys = self.programs.begin(self.programs.start(run), np.int32(0), self.seed, np.int32(1))
        batches = iter(self._batches(self.train, self._order(1)[:steps], 1))
        for at in range(steps):
            with jax.profiler.StepTraceAnnotation('train', step_num=at):
                progress, _ = jax.block_until_ready(self.programs.step(progress, next(batches), keys))

    def scores(self, variables: Variables) -> list[Score]:
        variables = jax.tree.map(lambda leaf: leaf[0], variables)
        splits = (self.train, self.val, self.test)
        totals = jax.device_get([self._total(split, variables) for split in splits])
        return [jax.tree.map(lambda x, n=split.size: x[None] / n, t) for split, t in zip(splits, totals, strict=True)]

    def _advance(self, run: Run, number: int, stop: int) -> tuple[Progress, Array]:
        """The first `stop` steps of an epoch, from its last Moment on; fewer if a loss at a new one is not finite."""
        started, pace = time.perf_counter(), Pace()
        done, moment = self.moments.restore(number, self.programs.start(run))
        self.seconds_before = float(moment.seconds)
        progress, keys = self.programs.begin(moment, np.int32(done), self.seed, np.int32(number))
        self._watch.begin(done)
        for batch in self._batches(self.train, self._order(number)[:stop], number, done):
            progress, loss = self.programs.step(progress, batch, keys)
            pace.wait(loss)
            done, self._taken = done + 1, self._taken + 1
            stop = self._stops(done, loss)
            if stop or self.moments.due(done):
                seconds = self.seconds_before + time.perf_counter() - started
                moment = self.programs.stop(progress, np.float32(seconds))
                if not np.isfinite(moment.losses).all():
                    break
                self.moments.save(number, done, moment)
                if stop:
                    raise stops.StoppedError.within(number, done, self.steps)
        return progress, keys

    def _stops(self, done: int, loss: Array) -> bool:
        """Whether to stop within the epoch."""
        if done == self.steps or done < self._watch.next:
            return False
        jax.block_until_ready(loss)  # on CPUs, messages of two programs at a time would mix
        return self._watch.asked(done)

    def _total(self, split: Records, variables: Variables) -> Score:
        """The sum of the Scores of a split's examples."""
        total, pace = _NOTHING, Pace()
        for batch in self._batches(split, self._in_turn(split)):
            total = self.programs.add(total, variables, batch)
            pace.wait(total)
        return total

    def _batches(self, split: Records, order: np.ndarray, number: int | None = None, done: int = 0) -> Iterable[Batch]:
        """Batches on the mesh, as stored, without those done; random crops of the number-th epoch, or centre crops."""
        key = None if number is None else (int(self.seed), number)
        with split.batches(order[done:, self.rows], key) as batches:
            awaited = self._awaited(batches)
            for batch in progress(awaited, split.name, total=len(order), unit='batch', done=done):
                yield shard_batch(self.mesh, batch)

    def _awaited(self, batches: Iterator[HostBatch]) -> Iterator[HostBatch]:
        """Hands batches on, and adds up how long they are waited for."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._waiting += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _order(self, number: int) -> np.ndarray:
        sizes = (self.train.size, self.steps, self.size)
        return np.asarray(epoch_order(self.seed, jnp.int32(number), *sizes))

    def _in_turn(self, split: Records) -> np.ndarray:
        """Every example once, in batches, the last one filled up by -1."""
        places = np.full(-(-split.size // self.size) * self.size, -1)
        places[: split.size] = np.arange(split.size)
        return places.reshape(-1, self.size)

    def _read_sample(self) -> Batch:
        order = np.arange(min(SAMPLE, self.train.size))[None]
        with self.train.batches(order) as batches:
            return prepared(self.preprocess, replicate(self.mesh, next(batches)))


class Pace:
    """Lets the host run a little ahead of the device, and no more."""

    def __init__(self) -> None:
        self._under_way: collections.deque[Any] = collections.deque()

    def wait(self, result: Any) -> None:
        """Waits for the results before the last few, of which this is the newest."""
        self._under_way.append(result)
        if len(self._under_way) > _AHEAD:
            jax.block_until_ready(self._under_way.popleft())


def prepared(preprocess: Preprocess, batch: Batch) -> Batch:
    """A stored batch as the model sees it."""
    return {**batch, 'image': preprocess(batch['image'])}


def _compile(stepwise: Stepwise, run: Run, batch: Batch) -> tuple[Programs, Any]:
    """(the programs, which can't compile again; the shapes of the diagnostics)."""
    experiment, preprocess, steps = stepwise.experiment, stepwise.preprocess, stepwise.steps
    spread, whole = experiment.spread, replicated(stepwise.mesh)

    def start(run: Run) -> Moment:
        nothing = jnp.zeros(steps, jnp.float32)
        return Moment(one_seed(run, 0).state, nothing, nothing, jnp.float32(0))

    def begin(moment: Moment, done: Array, seed: Array, number: Array) -> tuple[Progress, Array]:
        progress = Progress(spread.pack(moment.state), moment.losses, moment.errors, done)
        return jax.tree.map(jnp.copy, progress), epoch_keys(seed, number, steps)[1]  # steps may overwrite a copy

    def step(progress: Progress, batch: Batch, keys: Array) -> tuple[Progress, Array]:
        at = progress.done
        given = progress.packed, prepared(preprocess, batch), keys[at]
        packed, (loss, error) = learn(experiment, spread.update, *given)
        losses, errors = progress.losses.at[at].set(loss), progress.errors.at[at].set(error)
        return Progress(packed, losses, errors, at + 1), loss

    def stop(progress: Progress, seconds: Array) -> Moment:
        return Moment(spread.unpack(progress.packed), progress.losses, progress.errors, seconds)

    def add(total: Score, variables: Variables, batch: Batch) -> Score:
        logits = experiment.predict(variables, preprocess(batch['image']))
        sums = total_score(logits, batch['label'])
        return jax.tree.map(lambda before, more: before + more.astype(before.dtype), total, sums)

    def end(run: Run, progress: Progress, state: TrainState, total: Score, number: Array, keys: Array, sample: Batch):
        score = jax.tree.map(lambda x: x / stepwise.val.size, total)
        measured = progress.losses, progress.errors
        new, metrics = end_epoch(experiment, one_seed(run, 0), state, measured, score, number, sample, keys[-1])
        return lone_seed(new), jax.tree.map(lambda x: x[None], metrics)

    first = np.int32(1)
    start_c = jax.jit(start, out_shardings=whole).lower(run).compile()
    beginning = start_c(run), np.int32(0), stepwise.seed, first
    begin_c = jax.jit(begin).lower(*beginning).compile()
    progress, keys = begin_c(*beginning)
    places = jax.tree.map(lambda leaf: leaf.sharding, progress)
    step_c = jax.jit(step, donate_argnums=0, out_shardings=(places, whole)).lower(progress, batch, keys).compile()
    stop_c = jax.jit(stop, out_shardings=whole).lower(progress, _ZERO).compile()
    state = stop_c(progress, _ZERO).state
    add_c = jax.jit(add, out_shardings=whole).lower(_NOTHING, state.variables, batch).compile()
    ending = run, progress, state, _NOTHING, first, keys, stepwise.sample
    end_c = jax.jit(end, out_shardings=whole).lower(*ending)
    return Programs(start_c, begin_c, step_c, stop_c, add_c, end_c.compile()), end_c.out_info[1].diagnostics
