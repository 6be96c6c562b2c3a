"""Where time and memory go."""

import math
import types

import helpers
import jax
import numpy as np
import pytest
from etils import epath

from rlra_jax.experiment import stepwise
from rlra_jax.experiment import train as train_module
from rlra_jax.experiment.checkpoint import Moments
from rlra_jax.experiment.data import first_examples, load
from rlra_jax.experiment.epoch import Spent
from rlra_jax.experiment.metrics import read_metrics
from rlra_jax.experiment.train import train
from rlra_jax.experiment.watch import FIELDS, check_profile, peak_bytes, watched

READS = {'scanned': lambda data: data, 'stepwise': helpers.kept}


def rows(workdir):
    return [{name: row[name] for name in FIELDS} for row in read_metrics(workdir / 'metrics.csv')]


def trainable(spent):
    return types.SimpleNamespace(spent=spent)


def test_shares_of_an_epoch_by_hand():
    found = watched(trainable(Spent(4, 6.0, 2.5)), 10.0)
    assert [found[name] for name in FIELDS[:3]] == [1.5, 0.6, 0.25]
    found = watched(trainable(Spent(0, 1.0, 0.5)), 10.0)  # all its steps were done before
    assert [found[name] for name in FIELDS[:3]] == [1.0, 0.1, 0.05]


def test_waiting_is_the_time_until_a_batch_comes(monkeypatch):
    """By a clock that only reading, 3 seconds a batch, and training, 5, move on."""
    now = [100.0]

    def read():
        for batch in range(4):
            now[0] += 3
            yield batch

    monkeypatch.setattr(stepwise.time, 'perf_counter', lambda: now[0])
    stands_for = types.SimpleNamespace(_waiting=1.0)
    came = []
    for batch in stepwise.Stepwise._awaited(stands_for, read()):
        came.append(batch)
        now[0] += 5
    assert came == [0, 1, 2, 3]
    assert stands_for._waiting == 1 + 4 * 3


def test_an_epoch_step_by_step_tells_where_its_time_went(tmp_path):
    data = helpers.kept(first_examples(load('digits'), 200))
    result = train(helpers.make_config(num_seeds=1, epochs=2), tmp_path, data)
    for row in rows(tmp_path):
        assert 0 < row['step_share'] < 1
        assert 0 < row['input_share'] < 1
    means = {name: pytest.approx(np.mean([row[name] for row in rows(tmp_path)])) for name in FIELDS[:3]}
    assert {name: result['watched'][name] for name in means} == means


def test_an_epoch_over_data_on_the_device_waits_for_no_example(tmp_path):
    train(helpers.make_config(epochs=1), tmp_path)
    steps = 1197 // 50
    (row, _), seconds = rows(tmp_path), read_metrics(tmp_path / 'metrics.csv')[0]['seconds']
    assert row['input_share'] == 0
    assert 0 < row['step_share'] < 1
    np.testing.assert_allclose(row['step_seconds'] * steps, row['step_share'] * seconds)


class KilledError(BaseException):
    pass


@pytest.mark.parametrize('read', helpers.quick(READS, 'scanned'))
def test_an_epoch_that_goes_on_counts_the_steps_of_this_sitting(tmp_path, monkeypatch, read):
    data = READS[read](first_examples(load('digits'), 200))
    config = helpers.make_config(num_seeds=1, epochs=1, batch_size=20, checkpoint_steps=4)
    save, spent = Moments.save, []

    def save_then_die(self, epoch, done, moment):
        save(self, epoch, done, moment)
        if done == 8:
            raise KilledError

    def watch(trainable, seconds):
        spent.append(trainable.spent)
        return watched(trainable, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(Moments, 'save', save_then_die)
        with pytest.raises(KilledError):
            train(config, tmp_path, data)
    monkeypatch.setattr(train_module, 'watched', watch)
    train(config, tmp_path, data)
    assert [epoch.steps for epoch in spent] == [200 // 20 - 8]


class Device:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


@pytest.mark.parametrize(
    ('stats', 'peak'),
    [
        ([{'peak_bytes_in_use': 5, 'bytes_in_use': 9}, {'peak_bytes_in_use': 7}, None], 7.0),
        ([{'bytes_in_use': 9}, None], math.nan),
        ([{'peak_bytes_in_use': 0}], 0.0),
    ],
)
def test_the_most_that_a_device_has_held(monkeypatch, stats, peak):
    monkeypatch.setattr(jax, 'local_devices', lambda: list(map(Device, stats)))
    np.testing.assert_equal(peak_bytes(), peak)


def steps_of(trace):
    """The names of what the host did, in a trace."""
    (file,) = trace.glob('plugins/profile/*/*.xplane.pb')
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    return [event.name for plane in planes for line in plane.lines for event in line.events]


@pytest.mark.parametrize('read', helpers.quick(READS, 'stepwise'))
@pytest.mark.full
def test_a_trace_of_single_steps_changes_nothing_else(tmp_path, read):
    data = READS[read](first_examples(load('digits'), 200))
    config = helpers.make_config(num_seeds=1, epochs=1)
    plain = train(config, tmp_path / 'plain', data)
    traced = train(config, tmp_path / 'traced', data, profile=3)
    assert traced['per_seed'] == plain['per_seed']
    names = steps_of(tmp_path / 'traced' / 'profile')
    assert sum(name == 'train' for name in names) == 3
    assert not (tmp_path / 'plain' / 'profile').exists()


def test_what_cannot_be_traced(tmp_path):
    config = helpers.make_config(num_seeds=1, epochs=1)
    with pytest.raises(ValueError, match='profile must be at most 23, the steps of an epoch; got 24'):
        train(config, tmp_path, profile=24)
    with pytest.raises(ValueError, match='profile must be a whole number of at least 0; got -1'):
        train(config, tmp_path, profile=-1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r'profile must be 0 for .*, whose run is finished; got 3'):
        check_profile(3, 23, epath.Path(tmp_path), finished=True)
    check_profile(0, 23, epath.Path(tmp_path), finished=True)
    with pytest.raises(ValueError, match='no traces go into buckets; got 3'):
        check_profile(3, 23, 'gs://bucket/run', finished=False)
