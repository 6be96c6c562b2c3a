"""A study of error pathways and rates: those with the lowest validation error for what they cost.

The paper's outer search. Trials are drawn by Optuna's sampler for several objectives and kept in its journal, so that a
study that was stopped goes on. Each is a run like any other, with a workdir of its own.
"""

import logging
import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rlra_jax.experiment import front, report
from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import Dataset, load
from rlra_jax.experiment.entries import differing, plain
from rlra_jax.experiment.flops import step_flops
from rlra_jax.experiment.nonfinite import BadDataError, NonFiniteError
from rlra_jax.experiment.progress import progress
from rlra_jax.experiment.space import FREE, Options, Space
from rlra_jax.experiment.storage import local_path, open_path
from rlra_jax.experiment.tfds_arrays import require_module
from rlra_jax.experiment.train import prepare, train
from rlra_jax.experiment.workdir import held, own_workdir
from rlra_jax.experiment.writers import Scalars
from rlra_jax.validate import require, require_count

if TYPE_CHECKING:
    import optuna

_LOG = logging.getLogger(__name__)
_RIVALS = 4  # trials that are needed before one is stopped for being behind them
_SHARE = 0.2  # of its epochs that every trial may train
_IN_VAIN = 200  # draws in a row that the budget refuses before a study gives up


class Study(NamedTuple):
    """What a study found."""

    trials: list[front.Point]  # those that were trained to the end, in their order
    front: list[front.Point]  # those of them than which none is better and costs no more; cheapest first


def tune(
    config: Any,
    folder: str | os.PathLike[str],
    dataset: Dataset | None = None,
    *,
    trials: int,
    cost: str = 'synapses',
    budget: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Study:
    """Trains so many trials, those of earlier calls counted, and reports the best for each cost.

    A study begins at the wirings made by hand, with the config's own rates. A trial ends early once its lowest
    validation error is above the median of what trials that cost no more had after as many epochs.

    Args:
      config: of every trial, as `train` takes it, with the learner rec_lra.
      folder: receives journal.log, study.json, runs/, and front.json, front.md and pictures of it after every trial.
      dataset: to train on instead of the one that the config names.
      trials: how many to train, to the end or until they fall behind.
      cost: what is weighed against validation error: 'synapses' (numbers in E), 'levels' (of the recursion), or
        'flops' (of a training step per example).
      budget: the most that a trial may have of each of these; it is checked before anything is trained.
      seed: of the draws.

    Raises:
      ModuleNotFoundError: Optuna is not installed.
      ValueError: there are several processes; the learner is another; folder holds a study of another config, cost,
        seed or data set, or is in use; an unknown cost; or no draw keeps to the budget. And what `train` raises.
      StoppedError: as `train`; the same call goes on.
    """
    require_module('optuna', "'rlra_jax[tune]'", 'studies are made with Optuna')
    require_count('trials', trials)
    require(cost in front.COSTS, 'cost', f'one of {", ".join(front.COSTS)}', cost)
    for name, most in (budget or {}).items():
        require(
            name in front.COSTS and most > 0, 'budget', f'positive numbers of {", ".join(front.COSTS)}', {name: most}
        )
    require(jax.process_count() == 1, 'the number of processes of a study', '1', jax.process_count())
    name = config['learner']['name']
    require(name == 'rec_lra', 'the learner', 'rec_lra, whose error pathways are searched', name)
    path = local_path(folder)
    with held(open_path(folder)):
        dataset = dataset or load(config['dataset'], config['data_dir'] or None, config['bad_examples'])
        return _Tuner(config, path, dataset, cost, dict(budget or {}), seed).run(trials)


def _claim(path: pathlib.Path, mine: dict[str, Any]) -> None:
    """Notes what a study is of; raises if the folder holds another."""
    if not path.exists():
        report.write_json(path, mine)
    theirs = report.read_json(path)
    a, b = ({**each, 'config': differing(each['config'])} for each in (theirs, mine))
    if other := [key for key in mine if a.get(key, b[key]) != b[key]]:  # older versions noted less
        raise ValueError(f'{path.parent} holds a study of another {" and ".join(other)}; choose another folder')


class _OverBudgetError(Exception):
    """Says what a trial would have cost."""


class _Tuner:
    def __init__(
        self, config: Any, folder: pathlib.Path, dataset: Dataset, cost: str, budget: dict[str, float], seed: int
    ):
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = ConfigDict(plain(config))
        self.folder, self.cost, self.budget = folder, cost, budget
        self.dataset = dataset
        self.seen, experiment, _ = prepare(config, self.dataset)
        self.net, self.space = experiment.net, Space(self.config, experiment.net)
        mine = {'config': plain(config), 'cost': cost, 'seed': seed, 'data set': dataset.sha256}
        _claim(folder / 'study.json', mine)  # not before the config is known to be good
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / 'journal.log'))),
            study_name='rlra_jax',
            directions=['minimize', 'minimize'],
            load_if_exists=True,
        )
        begun = self.study.get_trials(deepcopy=False)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + len(begun))
        waiting = self.space.first() if not begun else []
        for trial in begun:  # the process that had them is gone: this one holds the folder
            if trial.state == optuna.trial.TrialState.RUNNING:
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                waiting.append(trial.params)
        for params in waiting:
            self.study.enqueue_trial(params)

    def run(self, trials: int) -> Study:
        done = len(self._trained())
        for _ in progress(self._tries(trials - done), 'tuning', total=trials, unit='trial', done=min(done, trials)):
            front.write(self.folder, self._points(), self.cost)
        found = self._points()
        front.write(self.folder, found, self.cost)
        return Study(found, front.best(found, self.cost))

    def _tries(self, count: int) -> Iterator[None]:
        """Draws and trains until so many were trained."""
        import optuna

        refused = 0
        while count > 0:
            trial = self.study.ask()
            options = self.space.draw(trial)
            try:
                values = self._train(trial, options)
            except _OverBudgetError as error:
                _LOG.debug('trial %d: %s', trial.number, error)
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                refused += 1
                require(refused < _IN_VAIN, 'budget', f'one that some of {_IN_VAIN} draws keep to', self.budget)
                continue
            except BadDataError:
                raise
            except (optuna.TrialPruned, NonFiniteError) as error:
                _LOG.info('trial %d: %s', trial.number, error)
                self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                self.study.tell(trial, values)
            refused, count = 0, count - 1
            yield

    def _train(self, trial: 'optuna.Trial', options: Options) -> tuple[float, float]:
        """(validation error in %, or bits of a text; cost)."""
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.update_from_flattened_dict(options)
        costs = self._costs(config, options)
        trial.set_user_attr('costs', costs)
        trial.set_user_attr('options', plain(options))
        workdir = own_workdir(self.folder / 'runs', config)
        judge = _Judge(trial, workdir, self._rivals(costs[self.cost]), config['epochs'])
        result = train(config, workdir, self.dataset, writers=[judge])
        measure = report.measure_of(result)
        entries = [key for entry in measure.entries for key in (entry, f'{entry}_sd')]
        kept = {key: result[key] for key in (*entries, 'seconds_train')}
        trial.set_user_attr('result', {**kept, 'workdir': workdir.name, 'seeds': len(result['per_seed'])})
        value = result[f'val_{measure.name}']
        _LOG.info('trial %d: validation %s %.2f, %s', trial.number, measure.label, value, front.told(costs))
        return value, costs[self.cost]

    def _costs(self, config: ConfigDict, options: Options) -> dict[str, float]:
        try:
            wiring = self.space.wiring(self.net, options)
            if config['parallel']['mode'] != 'data':  # another may refuse what wires well
                build(config, self.seen)
        except ValueError as error:
            raise _OverBudgetError(str(error)) from error
        regions = {region.name: region for region in self.net}
        sizes = {e.synapse: e.kind.size(regions[e.source], regions[e.target]) for e in wiring.edges}
        costs: dict[str, float] = {'synapses': sum(sizes.values()), 'levels': len(wiring.levels)}
        self._check(costs)
        if 'flops' in (self.cost, *self.budget):
            costs['flops'] = round(step_flops(config, self.seen) / config['batch_size'])
            self._check(costs)
        return costs

    def _check(self, costs: Mapping[str, float]) -> None:
        over = [name for name, most in self.budget.items() if costs.get(name, 0) > most]
        if over:
            raise _OverBudgetError(f'over the budget {self.budget}: {front.told(costs)}')

    def _trained(self) -> list['optuna.trial.FrozenTrial']:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def _rivals(self, cost: float) -> list[Sequence[float]]:
        """The curves of earlier trials that cost no more."""
        cheap = [t.user_attrs for t in self._trained() if t.user_attrs['costs'][self.cost] <= cost]
        return [attributes['errors'] for attributes in cheap if 'errors' in attributes]

    def _points(self) -> list[front.Point]:
        ended = [trial for trial in self._trained() if 'result' in trial.user_attrs]
        told = [[trial.user_attrs[name] for name in ('options', 'costs', 'result')] for trial in ended]
        return [front.Point(t.number, t.params.get('wiring', FREE), *rest) for t, rest in zip(ended, told, strict=True)]


class _Judge:
    """Stops a run that falls behind."""

    def __init__(self, trial: 'optuna.Trial', workdir: Any, rivals: Sequence[Sequence[float]], epochs: int):
        self._trial, self._workdir, self._rivals, self._epochs = trial, workdir, rivals, epochs

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        import optuna

        curves = report.curves(self._workdir)  # a resumed run's from the start
        measure = report.measure_of(curves)
        lowest = np.minimum.accumulate(curves[f'val_{measure.name}_mean'])
        self._trial.set_user_attr('errors', lowest.tolist())
        others = [curve[step - 1] for curve in self._rivals if len(curve) >= step]
        if step < self._epochs * _SHARE or len(others) < _RIVALS:
            return
        median = statistics.median(others)
        if lowest[-1] > median:
            raise optuna.TrialPruned(
                f'stopped after epoch {step} of {self._epochs}: lowest validation {measure.label} {lowest[-1]:.2f}, '
                f'{median:.2f} the median of those that cost no more'
            )
