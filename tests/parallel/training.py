"""The trainer on 8 simulated devices; run by test_devices.py in a process of its own."""

import helpers
import numpy as np
import pytest

from rlra_jax.experiment import train as train_module
from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import first_examples, load
from rlra_jax.experiment.metrics import FIELDS, read_metrics
from rlra_jax.experiment.train import train
from rlra_jax.parallel.mesh import make_mesh, own_rows

MODES = {
    'one': {'data': 1},  # device of 8
    'data': {},
    'level': {'mode': 'level', 'data': 2, 'level': 4},
    'stage': {'mode': 'stage', 'data': 2, 'stage': 4, 'microbatches': 3},
    'stream': {'mode': 'stream'},
}


class KilledError(Exception):
    pass


def make_config(mode, **changes):
    parallel = {f'parallel.{key}': value for key, value in MODES[mode].items()}
    options = {
        'num_seeds': 1,
        'epochs': 2,
        'train_examples': 480,
        'batch_size': 48,
        'model.widths': (16,) * 8,
        'model.init_std': 0.35,
        'learner.rule': 'kp',
        'learner.synapse_std': 0.35,
        'learner.normalise': True,
        'optimizer.name': 'sgd',
        'optimizer.learning_rate': 1.0,
    }
    return helpers.make_config(**(options | parallel | changes))


def numbers(workdir):
    return np.array([[row[field] for field in FIELDS] for row in read_metrics(workdir / 'metrics.csv')])


@pytest.fixture(scope='session')
def expected(tmp_path_factory):
    """What one device gets."""
    workdir = tmp_path_factory.mktemp('one')
    train(make_config('one'), workdir)
    came = numbers(workdir)
    assert came[1, 3] < 80  # % wrong in validation: it learns
    return came


@pytest.mark.parametrize(
    ('first', 'then'),
    [
        ('stage', 'data'),
        *(pytest.param(*pair, marks=pytest.mark.full) for pair in [('data', 'level'), ('level', 'stream')]),
    ],
)
def test_a_run_goes_on_under_another_mode_and_mesh(tmp_path, monkeypatch, expected, first, then):
    check = train_module._Trainer._require_finite

    def stop(self, run, trainable, metrics, epoch, checkpoints):
        if epoch == 2:
            raise KilledError
        return check(self, run, trainable, metrics, epoch, checkpoints)

    with monkeypatch.context() as patch:
        patch.setattr(train_module._Trainer, '_require_finite', stop)
        with pytest.raises(KilledError):
            train(make_config(first), tmp_path)
    train(make_config(then), tmp_path)
    np.testing.assert_allclose(numbers(tmp_path), expected, rtol=2e-4)


@pytest.mark.parametrize(('batch_size', 'devices'), [(48, 8), (50, 5), (7, 7), (11, 1)])
def test_all_devices_that_the_batch_allows_take_part(batch_size, devices):
    config = make_config('data', batch_size=batch_size)
    assert build(config, load('digits')).spread.mesh.size == devices


@pytest.mark.parametrize(
    ('sizes', 'devices'),
    [((3, -1), 6), ((3, 1), 3), ((3, 2), 6), ((5, -1), 5)],
)
def test_of_devices_that_do_not_divide_some_are_left_out(sizes, devices):
    sizes = {f'parallel.{axis}': size for axis, size in zip(('level', 'data'), sizes, strict=True)}
    assert build(make_config('level', batch_size=60, **sizes), load('digits')).spread.mesh.size == devices


@pytest.mark.full
@pytest.mark.parametrize('mode', ['data', 'level', 'stage', 'stream'])
def test_batches_that_are_read_as_training_goes_on(tmp_path, monkeypatch, expected, mode):
    """Stopped within an epoch, the run goes on from its last Moment on one device."""
    data = helpers.kept(first_examples(load('digits'), 480))
    save, changes = train_module.Moments.save, {'train_examples': 0, 'checkpoint_steps': 3}

    def save_then_stop(self, epoch, done, moment):
        save(self, epoch, done, moment)
        if (epoch, done) == (2, 6):
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(train_module.Moments, 'save', save_then_stop)
        with pytest.raises(KilledError):
            train(make_config(mode, **changes), tmp_path, data)
    seen = []
    monkeypatch.setattr(train_module.Moments, 'save', lambda self, *args: seen.append(args[:2]))
    train(make_config('one', **changes), tmp_path, data)
    assert seen == [(2, 9)]
    np.testing.assert_allclose(numbers(tmp_path), expected, rtol=2e-4)


@pytest.mark.full
def test_mirrors_learn_the_same_in_every_mode(tmp_path):
    options = {'learner.rule': 'mirror', 'learner.mirror_every': 2}
    for mode in MODES:
        train(make_config(mode, **options), tmp_path / mode)
    first, *others = (numbers(tmp_path / mode) for mode in MODES)
    assert first[1, 3] < 80
    for came in others:
        np.testing.assert_allclose(came, first, rtol=2e-4)


@pytest.mark.parametrize(('data', 'stage'), [(8, 1), (4, 2)])
def test_each_process_takes_the_rows_of_its_devices(data, stage):
    """Of two processes with four devices each: half of a batch, whether or not stages see it twice."""
    mesh = make_mesh(data=data, stage=stage)
    devices = list(mesh.devices.flat)
    halves = [own_rows(mesh, 16, devices[:4]), own_rows(mesh, 16, devices[4:])]
    np.testing.assert_array_equal(halves, np.arange(16).reshape(2, 8))
    np.testing.assert_array_equal(own_rows(mesh, 16), np.arange(16))


@pytest.mark.full
def test_seeds_side_by_side_on_a_mesh(tmp_path, expected):
    train(make_config('data', num_seeds=2), tmp_path)
    np.testing.assert_allclose(numbers(tmp_path)[::2], expected, rtol=2e-4)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'parallel.mode': 'pipe'}, "unknown parallel.mode 'pipe'; known: data, level, stage, stream"),
        ({'parallel.data': 16}, r'multiply to the 8 devices; got \(16, 1, 1\)'),
        ({'parallel.data': 0}, 'parallel.data must be a whole number of at least 1; got 0'),
        ({'parallel.mode': 'stage', 'parallel.stage': 0}, 'stage must be a whole number'),
        ({'parallel.stage': 2, 'parallel.data': 4}, r"parallel.stage must be 1 in mode 'data'; got 2"),
        (
            {'parallel.mode': 'level', 'parallel.level': 5, 'parallel.data': -1, 'batch_size': 48},
            'batch_size must be a multiple of the 5 devices that share it; got 48',
        ),
        (
            {'batch_size': 50, 'parallel.data': 8},
            'batch_size must be a multiple of the 8 devices that share it; got 50',
        ),
        ({'parallel.mode': 'stream', 'learner.wiring': 'chain'}, 'the wiring leaves all hidden regions in one block'),
    ],
)
def test_bad_modes(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(make_config('data', **changes), tmp_path / 'never', load('digits'))
    assert not (tmp_path / 'never').exists()


def test_a_mode_of_rec_lra_with_another_learner(tmp_path):
    from configs import common, digits

    config = common.override(
        digits.get_config('learner=backprop,num_seeds=1'), {'parallel.mode': 'stream', 'batch_size': 48}
    )
    with pytest.raises(ValueError, match=r"learner of parallel.mode='stream' must be 'rec_lra'; got 'backprop'"):
        train(config, tmp_path / 'never')
