import csv
import json
import logging
import shutil

import helpers
import jax
import numpy as np
import pytest

from rlra_jax.experiment import report, workdir
from rlra_jax.experiment import train as train_module
from rlra_jax.experiment.checkout import commit
from rlra_jax.experiment.data import Split, first_examples, load
from rlra_jax.experiment.metrics import COLUMNS, read_metrics
from rlra_jax.experiment.preprocess import make_preprocess
from rlra_jax.experiment.train import train
from rlra_jax.experiment.watch import FIELDS as WATCHED
from rlra_jax.experiment.workdir import held, own_workdir
from rlra_jax.nn import ResNet18

TIMES = ('seconds_compile', 'seconds_train', 'watched', 'command')


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
    assert tuple(rows[0]) == (*COLUMNS, *WATCHED)
    origin = json.loads((tmp_path / 'origin.json').read_text())
    assert {key: saved[key] for key in origin} == origin
    assert set(origin) == {'command', 'versions', 'code_sha256', 'git', 'device', 'data_sha256', 'data'}
    assert origin['git'] == commit()
    assert origin['device']['processes'] == 1
    assert all(0 <= float(row['val_top5_error']) <= float(row['val_error']) for row in rows)
    assert all(0 <= saved[name.replace('_', '_top5_')] <= saved[name] for name in report.ERRORS)
    assert [(int(row['epoch']), int(row['seed'])) for row in rows] == [(e, s) for e in range(1, 5) for s in (0, 1)]
    assert list((tmp_path / 'tensorboard').glob('events*'))
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['2', '3', '4']


def test_numpys_numbers_in_a_config_are_numbers(tmp_path):
    """As sweeps draw them: the run is that of plain ones, and goes on where that stopped."""
    config = helpers.make_config(epochs=1, num_seeds=1).to_dict()
    numbers = {'seed': np.int64(0), 'epochs': np.int64(1), 'num_seeds': np.int32(1), 'batch_size': np.int64(50)}
    given = (
        config | numbers | {'model': {**config['model'], 'init_std': np.float64(0.05), 'widths': np.array([32, 32])}}
    )
    assert own_workdir('runs', given) == own_workdir('runs', config)
    result = train(given, tmp_path)
    assert result == json.loads((tmp_path / 'result.json').read_text()) == train(config, tmp_path)


def test_a_config_of_an_older_version_has_the_same_folder():
    config = helpers.make_config().to_dict()
    older = {key: value for key, value in config.items() if key not in ('average_flips', 'label_smoothing')}
    parts = ('optimizer', 'synapse_optimizer')
    older |= {part: {key: value for key, value in config[part].items() if key != 'decays'} for part in parts}
    assert own_workdir('runs', older) == own_workdir('runs', config)
    for changed in ({'average_flips': True}, {'optimizer': config['optimizer'] | {'decays': 'kernels'}}):
        assert own_workdir('runs', older) != own_workdir('runs', config | changed)


def test_what_json_does_not_know():
    config = helpers.make_config().to_dict() | {'note': jax.numpy.tanh}
    with pytest.raises(ValueError, match='a config must hold numbers, strings, lists, dictionaries and None; got <'):
        own_workdir('runs', config)


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


@pytest.mark.parametrize(
    'read_as', helpers.quick([lambda data: data, helpers.kept], helpers.kept), ids=['scanned', 'stepwise']
)
def test_in_64_bits_epochs_still_take_what_they_gave(tmp_path, read_as):
    """jax_enable_x64, as users set it for their own models."""
    data = read_as(first_examples(load('digits'), 200))
    with jax.enable_x64(True):
        result = train(helpers.make_config(epochs=2, num_seeds=1), tmp_path, data)
    assert {row['epoch'] for row in read_metrics(tmp_path / 'metrics.csv')} == {1, 2}
    assert 0 < result['test_error'] < 100


class Killed(BaseException):
    pass


@pytest.mark.parametrize('learner', ['rec_lra', pytest.param('backprop', marks=pytest.mark.full)])
@pytest.mark.parametrize('checkpoint_every', [pytest.param(1, marks=pytest.mark.full), 2])
def test_resumes_exactly_where_it_was_stopped(tmp_path, monkeypatch, learner, checkpoint_every):
    """Stopped in epoch 4, with epochs 1 to 3 in metrics.csv: goes on from the last checkpoint to the same end."""
    changes = {'epochs': 6, 'checkpoint_every': checkpoint_every}
    from configs import common, digits

    config = common.override(digits.get_config(f'learner={learner},num_seeds=2,model.widths=(32,32)'), changes)
    whole = train(config, tmp_path / 'whole')

    check = train_module._Trainer._require_finite

    def stop(self, run, trainable, metrics, epoch, checkpoints):
        if epoch == 4:
            raise Killed
        return check(self, run, trainable, metrics, epoch, checkpoints)

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


@pytest.mark.full
def test_a_batch_normalised_network_trains_augments_and_resumes(tmp_path, monkeypatch):
    """Learners call the model with train=True, evaluation without; crops and flips are redrawn the same."""
    from configs import common, digits

    monkeypatch.setenv('RLRA_CACHE_DIR', str(tmp_path / 'cache'))
    small = {'model.blocks': (1, 1), 'model.width': 8, 'model.phi': 'relu', 'epochs': 4, 'num_seeds': 1}
    inputs = {'preprocess.contrast': True, 'preprocess.zca': True, 'augment.pad': 1, 'batch_size': 25}
    config = digits.get_config('model=resnet18,rule=fixed,checkpoint_every=1,optimizer.learning_rate=0.01')
    config = common.override(config, {**small, **inputs})
    runs = []
    save = train_module.Checkpoints.save
    monkeypatch.setattr(train_module.Checkpoints, 'save', lambda self, *args: (save(self, *args), runs.append(args[1])))
    whole = train(config, tmp_path / 'whole')

    model = ResNet18(blocks=(1, 1), width=8)
    test = load('digits').test
    preprocess = make_preprocess(load('digits'), contrast=True, zca=True)
    variables = jax.tree.map(lambda leaf: leaf[0], runs[-1].best)
    logits = jax.jit(model.apply)(variables, preprocess(test.image))
    np.testing.assert_allclose(whole['test_error'], 100 * np.mean(logits.argmax(axis=1) != test.label), atol=0.26)
    assert whole['test_error'] < 80  # 400 examples, of which guessing gets 90 % wrong, with a standard deviation of 1.5
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(variables['batch_stats']))

    check = train_module._Trainer._require_finite

    def stop(self, run, trainable, metrics, epoch, checkpoints):
        if epoch == 2:
            raise Killed
        return check(self, run, trainable, metrics, epoch, checkpoints)

    monkeypatch.setattr(train_module._Trainer, '_require_finite', stop)
    with pytest.raises(Killed):
        train(config, tmp_path / 'stopped')
    monkeypatch.setattr(train_module._Trainer, '_require_finite', check)
    assert without_times(train(config, tmp_path / 'stopped')) == without_times(whole)


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch, caplog):
    first = train(helpers.make_config(), tmp_path)
    monkeypatch.setattr(train_module._Trainer, 'run', lambda self: pytest.fail('ran again'))
    assert train(helpers.make_config(), tmp_path) == first
    assert not caplog.records
    monkeypatch.setattr(report, 'code_sha256', lambda: 'other')
    with monkeypatch.context() as patch:  # another Python hashes the same code otherwise
        patch.setattr(report.platform, 'python_version', lambda: '3.99.0')
        assert train(helpers.make_config(), tmp_path) == first
    assert not caplog.records
    assert train(helpers.make_config(), tmp_path) == first
    assert 'begun by another version of rlra_jax' in caplog.text
    monkeypatch.setattr(workdir, 'writing', lambda path: pytest.fail(f'{path} was written'))
    assert train(helpers.make_config(), tmp_path) == first


def test_the_data_are_part_of_what_a_run_is_and_their_folder_is_not(tmp_path):
    config = helpers.make_config(epochs=1)
    other = helpers.make_config(epochs=1, data_dir='elsewhere', bad_examples='skip')
    assert own_workdir('runs', config) == own_workdir('runs', other)
    first = train(config, tmp_path)
    assert train(other, tmp_path) == first
    digits = load('digits')
    with pytest.raises(ValueError, match=r'a run on other data, of sha256 \w{8}; this is other'):
        train(config, tmp_path, digits._replace(sha256='other'))
    (tmp_path / 'config.json').write_text('')
    with pytest.raises(ValueError, match=r'config\.json cannot be read'):
        train(config, tmp_path)


def test_a_workdir_has_one_run_at_a_time(tmp_path):
    with held(tmp_path), pytest.raises(ValueError, match=r'is in use by process \d+ on '):
        train(helpers.make_config(epochs=1), tmp_path)
    with held(tmp_path):
        pass  # free again


def test_a_workdir_that_does_not_tell_whose_it_is(tmp_path):
    (tmp_path / 'result.json').write_text('{}')
    with pytest.raises(ValueError, match=r'holds result\.json of a run, but no config\.json'):
        train(helpers.make_config(epochs=1), tmp_path)
    assert not (tmp_path / 'config.json').exists()


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


@pytest.mark.full
def test_algorithm_1s_network_trains(tmp_path):
    from configs import common, digits

    small = {'model.width': 16, 'epochs': 1, 'num_seeds': 1, 'learner.radius': 1.0, 'optimizer.weight_decay': 1e-4}
    result = train(common.override(digits.get_config('model=residual_mlp,model.depth=4'), small), tmp_path)
    assert result['config']['model'] == {**result['config']['model'], 'name': 'residual_mlp', 'depth': 4, 'gap': 2}


@pytest.mark.full
def test_a_vision_transformer_trains(tmp_path):
    """The committed config on digits of 16 patches."""
    from configs import vit

    small = 'model.dtype=float32,model.patch=2,model.width=24,model.heads=2,model.depth=2,batch_size=20,epochs=6'
    config = vit.get_config(f'{small},augment.pad=0,augment.flip=False')
    assert config.dataset == 'cifar10'
    assert train(config, tmp_path, load('digits'))['test_error'] < 50


@pytest.mark.full
@pytest.mark.parametrize(('name', 'most'), [('mnist', 5.0), ('fashion_mnist', 15.0)])
def test_the_committed_configs_train_on_real_data(tmp_path, data_dir, name, most):
    """Two epochs of one seed; the error bounds are far below what an untrained or linear network reaches."""
    import importlib

    config = importlib.import_module(f'configs.{name}').get_config('epochs=2,num_seeds=1')
    result = train(config, tmp_path)
    assert result['test_error'] < most


@pytest.mark.parametrize(('seeds', 'epochs'), [(3, 15), pytest.param(10, 60, marks=pytest.mark.full)])
def test_rec_lra_comes_within_a_point_of_backprop_on_digits(tmp_path, seeds, epochs):
    """The committed config, which has 10 seeds and 60 epochs, vmapped in one jit."""
    from configs import digits

    assert (digits.get_config().num_seeds, digits.get_config().epochs) == (10, 60)
    size = f'num_seeds={seeds},epochs={epochs}'
    configs = {name: digits.get_config(f'learner={name},{size}') for name in ('rec_lra', 'backprop')}
    results = [train(config, tmp_path / name) for name, config in configs.items()]
    assert all(len(result['per_seed']) == seeds for result in results)
    assert results[0]['test_error'] < results[1]['test_error'] + 1.0
    assert results[1]['test_error'] < 4.0
    assert all(result['test_error_sd'] > 0 for result in results)
    shutil.rmtree(tmp_path)
