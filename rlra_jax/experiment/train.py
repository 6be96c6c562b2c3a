"""The training loop: epoch after epoch, each with its metrics and a checkpoint."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from rlra_jax.experiment import report, stops, text
from rlra_jax.experiment.build import Experiment, build
from rlra_jax.experiment.checkpoint import Checkpoints, Moments
from rlra_jax.experiment.data import Dataset, check_dataset, first_examples, load, with_context
from rlra_jax.experiment.entries import check_entries, plain
from rlra_jax.experiment.epoch import EpochMetrics, Run, Trainable, init_runs
from rlra_jax.experiment.memory import check_memory
from rlra_jax.experiment.metrics import FIELDS, MetricsLog
from rlra_jax.experiment.nonfinite import BadDataError, NonFiniteError, explain, unmoved
from rlra_jax.experiment.preprocess import Preprocess, make_preprocess
from rlra_jax.experiment.records import Records
from rlra_jax.experiment.rollback import MOST, Rollbacks, factor, lowered
from rlra_jax.experiment.scanned import Scanned
from rlra_jax.experiment.stepwise import Stepwise
from rlra_jax.experiment.storage import open_path
from rlra_jax.experiment.watch import check_profile, trace_steps, watched
from rlra_jax.experiment.workdir import claim, go_on, held
from rlra_jax.experiment.writers import Writer
from rlra_jax.parallel.distributed import leads
from rlra_jax.parallel.mesh import replicated
from rlra_jax.summary import summary

_LOG = logging.getLogger(__name__)


def train(
    config: Any,
    workdir: str | os.PathLike[str],
    dataset: Dataset | None = None,
    *,
    profile: int = 0,
    writers: Sequence[Writer] = (),
) -> dict[str, Any]:
    """Trains as the config says, or goes on where an earlier call with the same config and workdir stopped.

    `epochs`, `checkpoint_every` and `checkpoint_steps` may change in between, and so may `data_dir` and `parallel`.

    Args:
      config: an ml_collections.ConfigDict (see `configs/common.py`).
      workdir: receives config.json, metrics.csv, tensorboard/, checkpoints/ and moments/ (those within an epoch),
        and at the end result.json.
      dataset: to train on instead of the one that the config names.
      profile: how many steps to trace into workdir/profile before training (`watch.trace_steps`); 0: none.
      writers: get each epoch's numbers, as metrics.csv does; what they raise ends training.

    Returns:
      What result.json holds. Errors in %, at each seed's epoch of the lowest validation error, averaged over seeds; of
      texts at that of the lowest validation loss, and also losses in nats, bits per character and perplexities.

    Raises:
      ValueError: the config names something unknown or out of range, or the data set holds labels that are no class or
        images that are not finite, or memory does not hold the run, or workdir holds a run of another config or
        on other data, or one that cannot be read, or that is in progress.
      FileNotFoundError: the data set is not prepared; says how to prepare it.
      ModuleNotFoundError: a package that reads or decodes it is missing; says how to install it.
      OSError: workdir can no longer be written; what was written before stays.
      NonFiniteError: a loss was not finite (with `on_nan=rollback` at lower rates, too); what was written before stays.
      StoppedError: a signal asked for a stop (see `stops`), and a checkpoint holds all that was done.
    """
    folder = open_path(workdir)
    code = report.code_sha256()  # now, in case that someone edits it before the run ends
    dataset, experiment, preprocess = prepare(config, dataset)
    finished = None
    with contextlib.suppress(ValueError):  # a damaged one is told below, after whose the folder is
        finished = _result(folder, config)
    check_profile(profile, experiment.steps_per_epoch, folder, finished=finished is not None)
    if finished is not None:
        claim(
            folder, config, dataset.sha256, code, dataset.meaning
        )  # which raises if the folder is another run's, and writes nothing
        _LOG.info('already finished: %s', folder / 'result.json')
        return finished
    check_memory(config, experiment, dataset)
    with held(folder):
        claim(folder, config, dataset.sha256, code, dataset.meaning)
        if (result := _result(folder, config)) is not None:
            _LOG.info('already finished: %s', folder / 'result.json')
            return result
        return _Trainer(config, folder, dataset, experiment, preprocess, profile, writers).run()


def prepare(config: Any, dataset: Dataset | None = None) -> tuple[Dataset, Experiment, Preprocess]:
    """The data that a config names, or the one given, and what it builds on that."""
    check_entries(config)
    if dataset is None:
        dataset = load(config['dataset'], config['data_dir'] or None, config['bad_examples'])
    else:
        check_dataset(dataset)
    if dataset.alphabet and 'context' in config['model']:
        dataset = with_context(dataset, config['model']['context'])
    dataset = first_examples(dataset, config['train_examples'])
    with _told('building model and learner'):
        return dataset, build(config, dataset), make_preprocess(dataset, **config['preprocess'])


def _result(workdir: epath.Path, config: Any) -> dict[str, Any] | None:
    """What result.json holds, if its run had as many epochs as the config has."""
    path = workdir / 'result.json'
    found = report.read_result(path) if path.exists() else None
    return found if found is not None and found['config']['epochs'] == config['epochs'] else None


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Says what is going on where that may take minutes, and how long it took."""
    start = time.perf_counter()
    _LOG.info('%s ...', what)
    yield
    _LOG.info('%s took %.1f s', what, time.perf_counter() - start)


class _Trainer:
    """The arrays and files of one run."""

    def __init__(
        self,
        config: Any,
        workdir: epath.Path,
        dataset: Dataset,
        experiment: Experiment,
        preprocess: Preprocess,
        profile: int,
        writers: Sequence[Writer],
    ):
        self.config, self.workdir, self.dataset = config, workdir, dataset
        self.experiment, self.preprocess, self.profile, self.writers = experiment, preprocess, profile, writers
        self.on_text = experiment.reads == 'tokens'
        self.rollbacks = Rollbacks(workdir)
        self.seeds = np.arange(config['seed'], config['seed'] + config['num_seeds'], dtype=np.int32)

    def run(self) -> dict[str, Any]:
        if leads() and _LOG.isEnabledFor(logging.INFO):  # it takes seconds, of deep models
            _LOG.info('model and error pathways:\n\n%s\n', summary(self.experiment.net, self.experiment.wiring))
        with contextlib.ExitStack() as open_files:
            checkpoints = open_files.enter_context(contextlib.closing(Checkpoints(self.workdir / 'checkpoints')))
            every, steps = self.config['checkpoint_steps'], self.experiment.steps_per_epoch
            moments = open_files.enter_context(contextlib.closing(Moments(self.workdir / 'moments', every, steps)))
            with _told('compiling'):
                run, trainable, seconds_compile = self._start(checkpoints, moments)
            if self.profile:
                with _told(f'tracing {self.profile} steps into {self.workdir / "profile"}'):
                    trace_steps(trainable, run, self.profile, self.workdir / 'profile')
            with stops.training():
                while (done := self._epochs(run, trainable, checkpoints, moments)) is None:
                    run, trainable, more = self._start(checkpoints, moments)
                    seconds_compile += more
            return self._finish(*done, trainable, seconds_compile)

    def _start(self, checkpoints: Checkpoints, moments: Moments) -> tuple[Run, Trainable, float]:
        """The first Run, or the one restored; what trains it; and how long that took."""
        start = time.perf_counter()
        init = functools.partial(init_runs, self.experiment)
        run = jax.jit(init, out_shardings=replicated(self.experiment.spread.mesh))(self.seeds)
        if (restored := checkpoints.restore(run)) is not None:
            _LOG.info('resuming after epoch %d of %s', checkpoints.epoch, self.workdir)
            run = restored
        go_on(self.workdir, self.config, checkpoints.epoch)
        if times := self.rollbacks.count(checkpoints.epoch):
            self.experiment = build(lowered(self.config, times), self.dataset)
        make = Stepwise if isinstance(self.dataset.train, Records) else Scanned
        trainable: Trainable = make(self.experiment, self.dataset, self.preprocess, self.seeds, run, moments)
        return run, trainable, time.perf_counter() - start

    def _epochs(
        self, run: Run, trainable: Trainable, checkpoints: Checkpoints, moments: Moments
    ) -> tuple[Run, MetricsLog] | None:
        """The Run after the last epoch, and what is known of all; None after a rollback."""
        log = MetricsLog(
            self.workdir,
            self.seeds.tolist(),
            epochs=self.config['epochs'],
            resume_from=checkpoints.epoch,
            further=[*(text.EPOCH_METRICS if self.on_text else ()), *trainable.diagnostics],
            writers=self.writers,
        )
        with contextlib.closing(log):
            last = self._until_the_end(run, trainable, checkpoints, moments, log)
        return None if last is None else (last, log)

    def _until_the_end(
        self, run: Run, trainable: Trainable, checkpoints: Checkpoints, moments: Moments, log: MetricsLog
    ) -> Run | None:
        """The Run after the last epoch; None after a rollback."""
        first, last = checkpoints.epoch + 1, self.config['epochs']
        for number in range(first, last + 1):
            start = time.perf_counter()
            try:
                new, metrics = trainable.epoch(run, number)
            except stops.StoppedError:  # with a Moment, which goes on from this Run
                if number - 1 > checkpoints.epoch:
                    checkpoints.save(number - 1, run)
                raise
            metrics = jax.device_get(metrics)
            sitting = time.perf_counter() - start
            seconds = trainable.seconds_before + sitting
            try:
                self._require_finite(run, trainable, metrics, number, checkpoints)
            except NonFiniteError as error:
                self._roll_back(error, number, checkpoints, moments)
                return None
            if number == 1:
                self._tell_of_unmoved(metrics.still)
            log.write(number, self._told_of(metrics), seconds, watched(trainable, sitting))
            run, stop = new, stops.asked()
            if stop or number % self.config['checkpoint_every'] == 0 or number == last:
                checkpoints.save(number, run)
            if stop:
                raise stops.StoppedError(f'stopped after epoch {number} of {last}; the same command goes on from there')
        checkpoints.wait()  # a stop during the last evaluation must not cost it
        return run

    def _told_of(self, metrics: EpochMetrics) -> dict[str, Any]:
        """What the log gets of an epoch, by name."""
        values = {name: getattr(metrics, name) * (100 if name.endswith('error') else 1) for name in FIELDS}
        if self.on_text:
            values |= text.measures_of(values)
            if self.config.get('label_smoothing'):  # older configs have none; the loss of its steps is of no text
                values['train_bits'] = np.full_like(values['train_bits'], np.nan)
        return values | metrics.diagnostics

    def _tell_of_unmoved(self, still: Any) -> None:
        """Warns of parameters that did not move in epoch 1, unless a warm-up gave its only step a rate of 0."""
        no_rate = self.experiment.steps_per_epoch == 1 and round(self.config['optimizer'].get('warmup_epochs', 0)) > 0
        if not no_rate and (names := unmoved(still)):
            _LOG.warning(
                'no update reached %s in epoch 1: errors are exactly zero there; try normalise or a larger beta', names
            )

    def _require_finite(
        self, run: Run, trainable: Trainable, metrics: EpochMetrics, epoch: int, checkpoints: Checkpoints
    ) -> None:
        bad = np.flatnonzero(metrics.bad_step >= 0)
        if not bad.size:
            return
        if epoch - 1 > checkpoints.epoch:
            checkpoints.save(epoch - 1, run)
        index = int(bad[np.argmin(metrics.bad_step[bad])])
        raise explain(
            self.experiment,
            trainable,
            run,
            bad_step=int(metrics.bad_step[index]),
            seed=int(self.seeds[index]),
            index=index,
            epoch=epoch,
        )

    def _roll_back(self, error: NonFiniteError, epoch: int, checkpoints: Checkpoints, moments: Moments) -> None:
        """Leaves the workdir so that it goes on from the last checkpoint with lower rates; or raises the error."""
        if self.config['on_nan'] == 'stop' or isinstance(error, BadDataError):
            raise error
        times = self.rollbacks.count(checkpoints.epoch)
        if times == MOST:
            raise NonFiniteError(f'{error} It happened with learning rates times {factor(times):g}, too.')
        checkpoints.wait()
        moments.forget(epoch)
        self.rollbacks.add(epoch, error)
        what, place, rate = str(error).partition('. ')[0], epoch - 1, factor(times + 1)
        _LOG.warning('%s; back to the end of epoch %d, with learning rates times %g from there', what, place, rate)

    def _finish(self, run: Run, log: MetricsLog, trainable: Trainable, seconds_compile: float) -> dict[str, Any]:
        """Evaluates the best variables of each seed on all splits: the only look at the test data."""
        with _told('evaluating the best epoch on training, validation and test data'):
            by_split, best_epoch = jax.device_get((trainable.scores(run.best), run.best_epoch))
        errors = dict(zip(report.ERRORS, (score.error for score in by_split), strict=True))
        errors |= dict(zip(report.TOP5_ERRORS, (score.top5_error for score in by_split), strict=True))
        losses = dict(zip(report.LOSSES, (score.loss for score in by_split), strict=True))
        measured = losses | text.measures_of(losses) if self.on_text else {}
        per_seed = [
            {
                'seed': int(seed),
                **{name: 100 * float(values[i]) for name, values in errors.items()},
                **{name: float(values[i]) for name, values in measured.items()},
                'best_epoch': int(best_epoch[i]),
            }
            for i, seed in enumerate(self.seeds)
        ]
        result = {
            'learner': self.config['learner']['name'],
            'seed': int(self.config['seed']),
            **report.summarise(per_seed),
            'per_seed': per_seed,
            'epochs': self.config['epochs'],
            'steps_per_epoch': self.experiment.steps_per_epoch,
            'seconds_compile': seconds_compile,
            'seconds_train': log.seconds,
            'watched': log.watched,
            'rollbacks': self.rollbacks.told(),
            **report.provenance(self.dataset.sha256),
            'dataset': self.dataset.name,
            'data': self.dataset.meaning,
            'config': plain(self.config),
        }
        if leads():
            report.write_json(self.workdir / 'result.json', result)
        return result
