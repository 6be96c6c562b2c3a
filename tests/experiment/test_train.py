import csv
import json
import logging
import shutil

import helpers
import jax
import numpy as np
import pytest

from rlra_jax.experiment import train as train_module
from rlra_jax.experiment.data import Split, load
from rlra_jax.experiment.diagnose import NonFiniteError
from rlra_jax.experiment.epoch import Run, _keep_best, epoch_order
from rlra_jax.experiment.metrics import COLUMNS, read_metrics
from rlra_jax.experiment.train import train
from rlra_jax.train_step import TrainState

TIMES = ('seconds_compile', 'seconds_train', 'command')


def without_times(result):
    return {key: value for key, value in result.items() if key not in TIMES}


def test_writes_all_that_a_run_promises(tmp_path):
    result = train(helpers.make_config(), tmp_path)
    saved = json.loads((tmp_path / 'result.json').read_text())
    assert saved == result
    assert saved['learner'] == 'rec_lra'
    assert saved['epochs'] == 4
    assert saved['config']['model']['widths'] == [32, 32]
    assert [row['seed'] for row in saved['per_seed']] == [0, 1]
    errors = [row['test_error'] for row in saved['per_seed']]
    np.testing.assert_allclose([saved['test_error'], saved['test_error_sd']], [np.mean(errors), np.std(errors, ddof=1)])
    assert saved['seconds_compile'] > 0
    assert saved['seconds_train'] > 0
    assert saved['versions']['jax'] == jax.__version__
    assert saved['device']['platform'] == jax.default_backend()
    assert saved['data_sha256'] == load('digits').sha256
    with (tmp_path / 'metrics.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(int(row['epoch']), int(row['seed'])) for row in rows] == [(e, s) for e in range(1, 5) for s in (0, 1)]
    assert list((tmp_path / 'tensorboard').glob('events*'))
    assert (tmp_path / 'checkpoints' / '4' / 'best').is_dir()
    assert (tmp_path / 'checkpoints' / '4' / 'last').is_dir()


def test_reports_the_epoch_that_validated_best(tmp_path):
    result = train(helpers.make_config(epochs=8, num_seeds=1), tmp_path)
    rows = read_metrics(tmp_path / 'metrics.csv')
    best = min(rows, key=lambda row: row['val_error'])
    np.testing.assert_allclose(result['val_error'], best['val_error'], rtol=1e-5)
    assert result['best_epoch'] == best['epoch']


def test_test_data_does_not_influence_training(tmp_path):
    data = load('digits')
    shuffled = data._replace(test=Split(data.test.image[::-1].copy(), data.test.label))
    one = train(helpers.make_config(), tmp_path / 'one', data)
    other = train(helpers.make_config(), tmp_path / 'other', shuffled)
    assert one['test_error'] != other['test_error']
    assert one['val_error'] == other['val_error']
    assert one['best_epoch'] == other['best_epoch']


def test_seeds_side_by_side_train_as_each_would_alone(tmp_path):
    together = train(helpers.make_config(num_seeds=3), tmp_path / 'three')
    alone = train(helpers.make_config(num_seeds=1, seed=1), tmp_path / 'one')
    assert alone['per_seed'][0]['seed'] == together['per_seed'][1]['seed'] == 1
    losses = [
        [row['train_loss'] for row in read_metrics(tmp_path / name / 'metrics.csv') if row['seed'] == 1]
        for name in ('three', 'one')
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    first = [row['train_loss'] for row in read_metrics(tmp_path / 'three' / 'metrics.csv') if row['epoch'] == 1]
    assert len(set(first)) == 3


def test_same_command_same_numbers(tmp_path):
    one, other = (train(helpers.make_config(), tmp_path / name) for name in ('one', 'other'))
    assert without_times(one) == without_times(other)


class Killed(BaseException):
    pass


@pytest.mark.parametrize('learner', ['rec_lra', 'backprop'])
@pytest.mark.parametrize('checkpoint_every', [1, 2])
def test_resumes_exactly_where_it_was_stopped(tmp_path, monkeypatch, learner, checkpoint_every):
    """Stopped in epoch 4, with epochs 1 to 3 in metrics.csv: goes on from the last checkpoint to the same end."""
    changes = {'epochs': 6, 'checkpoint_every': checkpoint_every}
    from configs import common, digits

    config = common.override(digits.get_config(f'learner={learner},num_seeds=2,model.widths=(32,32)'), changes)
    whole = train(config, tmp_path / 'whole')

    check = train_module._Trainer._require_finite

    def stop(self, run, metrics, epoch, checkpoints):
        if epoch == 4:
            raise Killed
        return check(self, run, metrics, epoch, checkpoints)

    monkeypatch.setattr(train_module._Trainer, '_require_finite', stop)
    with pytest.raises(Killed):
        train(config, tmp_path / 'stopped')
    assert not (tmp_path / 'stopped' / 'result.json').exists()
    monkeypatch.undo()
    resumed = train(config, tmp_path / 'stopped')
    assert without_times(resumed) == without_times(whole)
    columns = [c for c in COLUMNS if c != 'seconds']
    tables = [
        [[row[c] for c in columns] for row in read_metrics(tmp_path / n / 'metrics.csv')] for n in ('whole', 'stopped')
    ]
    assert tables[0] == tables[1]


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    first = train(helpers.make_config(), tmp_path)
    monkeypatch.setattr(train_module._Trainer, 'run', lambda self: pytest.fail('ran again'))
    assert train(helpers.make_config(), tmp_path) == first


def test_another_config_in_the_same_workdir(tmp_path):
    train(helpers.make_config(epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r'(?s)another config:.*learner\.beta: 0\.1 there, 0\.2 here.*--workdir'):
        train(helpers.make_config(**{'epochs': 1, 'learner.beta': 0.2}), tmp_path)


def test_nothing_compiles_after_the_first_epoch(tmp_path, caplog):
    """jax logs each compilation; between the first epoch's metrics and the last's there must be none."""
    events = []

    class Watch(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            if 'Finished XLA compilation' in message or message.startswith('epoch '):
                events.append(message.split(' ')[0])

    watch = Watch()
    loggers = [logging.getLogger(name) for name in ('jax', 'rlra_jax')]
    for logger in loggers:
        logger.addHandler(watch)
    logging.getLogger('rlra_jax').setLevel(logging.INFO)
    try:
        with jax.log_compiles():
            train(helpers.make_config(num_seeds=1), tmp_path)
    finally:
        for logger in loggers:
            logger.removeHandler(watch)
    epochs = [i for i, event in enumerate(events) if event == 'epoch']
    assert len(epochs) == 4
    assert 'Finished' in events[: epochs[0]]
    assert 'Finished' not in events[epochs[0] : epochs[-1]]


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path):
    """relu with a huge plain-SGD step overflows; what was written before is kept."""
    config = helpers.make_config(
        **{
            'model.phi': 'relu',
            'model.widths': (16, 16, 16),
            'optimizer.name': 'sgd',
            'optimizer.learning_rate': 1e25,
            'optimizer.schedule': 'constant',
        }
    )
    with pytest.raises(
        NonFiniteError, match=r"seed \d+ is not finite at step \d+ of 23 in epoch 1: region 'hidden_2' is the first"
    ):
        train(config, tmp_path)
    assert (tmp_path / 'config.json').exists()
    assert read_metrics(tmp_path / 'metrics.csv') == []


def test_a_late_overflow_keeps_the_epochs_before_it(tmp_path, monkeypatch):
    """One bad image makes a NaN at its step; the state before that epoch is saved, whatever checkpoint_every says."""
    data = load('digits')
    image = np.array(data.train.image, np.float32)
    config = helpers.make_config(epochs=6, num_seeds=1, checkpoint_every=10)
    original = train_module._Trainer._inputs

    def poisoned(self, epoch):
        if epoch == 3:
            bad = image.copy()
            bad[5] = np.nan
            self.train_split = Split(jax.numpy.asarray(bad), self.train_split.label)
        return original(self, epoch)

    monkeypatch.setattr(train_module._Trainer, '_inputs', poisoned)
    order = np.asarray(epoch_order(np.int32(0), np.int32(3), 1197, 23, 50))
    (step,) = np.flatnonzero((order == 5).any(axis=1)) + 1
    with pytest.raises(NonFiniteError, match=f"at step {step} of 23 in epoch 3: region 'hidden_1' is the first"):
        train(config, tmp_path / 'bad', data._replace(train=Split(image, data.train.label)))
    assert {row['epoch'] for row in read_metrics(tmp_path / 'bad' / 'metrics.csv')} == {1, 2}
    assert (tmp_path / 'bad' / 'checkpoints' / '2').is_dir()


def test_an_overflow_in_the_last_step_is_not_a_success(tmp_path):
    """Training losses are taken before each step; only the validation sees what the last one did."""
    changes = {'model.phi': 'relu', 'optimizer.name': 'sgd', 'optimizer.learning_rate': 1e38, 'batch_size': 1197}
    with pytest.raises(NonFiniteError, match='in the validation after epoch 1: region'):
        train(helpers.make_config(**changes, epochs=1), tmp_path)
    assert not (tmp_path / 'result.json').exists()
    assert not list((tmp_path / 'checkpoints').glob('[0-9]*'))


def test_synapses_that_overflow_are_named(tmp_path):
    changes = {'synapse_optimizer.learning_rate': 1e30, 'epochs': 1, 'learner.wiring': 'chain'}
    with pytest.raises(NonFiniteError, match=r"the error synapses \['output->hidden_2'"):
        train(helpers.make_config(**changes), tmp_path)


def test_parameters_that_no_update_reaches_are_told(tmp_path, caplog):
    """sign units with a beta too small to flip any: their errors are exactly zero."""
    changes = {'model.phi': 'sign', 'learner.beta': 1e-9, 'learner.rule': 'fixed', 'epochs': 2}
    with caplog.at_level(logging.WARNING):
        train(helpers.make_config(**changes), tmp_path)
    (message,) = [r.getMessage() for r in caplog.records if 'no update reached' in r.getMessage()]
    assert 'dense_1/kernel' in message
    assert 'dense_2/bias' in message
    assert 'readout' not in message


def test_every_epoch_and_seed_has_an_order_of_its_own():
    orders = [np.asarray(epoch_order(np.int32(s), np.int32(e), 60, 3, 20)) for s in (0, 1) for e in (1, 2)]
    assert all(sorted(order.ravel()) == list(range(60)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 4


def test_the_first_of_equally_good_epochs_is_kept():
    run = Run(TrainState({'w': 1}, None, None, None), {'w': 0}, jax.numpy.float32(0.25), jax.numpy.int32(3))
    new = TrainState({'w': 2}, None, None, None)
    assert int(_keep_best(run, new, jax.numpy.float32(0.25), 4).best_epoch) == 3
    better = _keep_best(run, new, jax.numpy.float32(0.2), 4)
    assert (int(better.best_epoch), int(better.best['w'])) == (4, 2)


@pytest.mark.parametrize('option', ['learner.kappa', 'learner.alpha'])
def test_what_only_a_trace_finds_leaves_the_workdir_alone(tmp_path, option):
    config = helpers.make_config()
    name = option.split('.')[1]
    with config.unlocked():
        del config.learner[name]
        config.learner[name] = {'hiden_1': 0.5}
    with pytest.raises(ValueError, match='hiden_1'):
        train(config, tmp_path / 'never')
    assert not (tmp_path / 'never').exists()


def test_algorithm_1s_network_trains(tmp_path):
    from configs import common, digits

    small = {'model.width': 16, 'epochs': 1, 'num_seeds': 1, 'learner.radius': 1.0, 'optimizer.weight_decay': 1e-4}
    result = train(common.override(digits.get_config('model=residual_mlp,model.depth=4'), small), tmp_path)
    assert result['config']['model'] == {**result['config']['model'], 'name': 'residual_mlp', 'depth': 4, 'gap': 2}


@pytest.mark.full
@pytest.mark.parametrize(('name', 'most'), [('mnist', 5.0), ('fashion_mnist', 15.0)])
def test_the_committed_configs_train_on_real_data(tmp_path, data_dir, name, most):
    """Two epochs of one seed; the error bounds are far below what an untrained or linear network reaches."""
    import importlib

    config = importlib.import_module(f'configs.{name}').get_config('epochs=2,num_seeds=1')
    result = train(config, tmp_path)
    assert result['test_error'] < most


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'batch_size': 1198}, 'batch_size must be from 1 to the 1197 training examples; got 1198'),
        ({'batch_size': 0}, 'batch_size'),
        ({'seed': 2**31 - 1}, r'the last seed must be below 2\*\*31; got 2147483648'),
        ({'model.widths': (0,)}, 'width must be a whole number of at least 1; got 0'),
        ({'model.init_std': -0.1}, 'init_std'),
        ({'learner.synapse_std': 0.0}, 'std must be a number above 0'),
        ({'epochs': 0}, 'epochs must be a whole number of at least 1; got 0'),
        ({'num_seeds': 0}, 'num_seeds'),
        ({'checkpoint_every': 0}, 'checkpoint_every'),
        ({'dataset': 'mnits'}, "unknown data set 'mnits'"),
        ({'learner.name': 'fb'}, "unknown learner 'fb'; known: backprop, rec_lra"),
        ({'learner.name': 'backprop'}, r"learner 'backprop' has no option .*'beta'"),
        ({'learner.rule': 'oja'}, "unknown rule 'oja'"),
        ({'learner.beta': -1.0}, 'beta must be a number above 0'),
        ({'model.name': 'cnn2'}, "unknown model 'cnn2'; known: mlp, residual_mlp"),
        ({'model.name': 'residual_mlp'}, r"model 'residual_mlp' has no option \['widths'\]; it takes .*'width'"),
        ({'model.phi': 'gelu'}, "unknown activation 'gelu'; known: elu"),
        ({'optimizer.name': 'lion'}, "unknown optimizer 'lion'"),
    ],
)
def test_bad_configs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(helpers.make_config(**changes), tmp_path / 'never')
    assert not (tmp_path / 'never').exists()


def test_rec_lra_comes_within_a_point_of_backprop_on_digits(tmp_path):
    """The committed config: the mean of 10 seeds, vmapped in one jit."""
    from configs import digits

    results = [train(digits.get_config(f'learner={name}'), tmp_path / name) for name in ('rec_lra', 'backprop')]
    assert all(len(result['per_seed']) == 10 for result in results)
    assert results[0]['test_error'] < results[1]['test_error'] + 1.0
    assert results[1]['test_error'] < 4.0
    assert all(result['test_error_sd'] > 0 for result in results)
    shutil.rmtree(tmp_path)
