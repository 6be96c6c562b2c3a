"""What damaged files of a workdir cost: no more than themselves."""

import ast
import errno
import json
import logging

import filelock
import helpers
import pytest
from etils import epath

from rlra_jax.experiment.data import first_examples, load
from rlra_jax.experiment.entries import plain
from rlra_jax.experiment.metrics import read_metrics
from rlra_jax.experiment.report import read_result
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.train import train
from rlra_jax.experiment.workdir import claim, go_on, held, read_config

ANEW = 'cannot be read .*remove that file, and nothing else: the same command makes it anew'


def test_a_damaged_result_or_origin_is_all_that_is_to_be_removed(tmp_path):
    config, data = helpers.make_config(epochs=2, num_seeds=1), first_examples(load('digits'), 100)
    first = train(config, tmp_path, data)
    for name in ('result.json', 'origin.json'):
        (tmp_path / name).write_text('{"half')
        with pytest.raises(ValueError, match=f'{tmp_path}/{name} {ANEW}'):
            train(config, tmp_path, data)
        (tmp_path / name).unlink()
        assert train(config, tmp_path, data)['per_seed'] == first['per_seed']
        assert (tmp_path / name).exists()
    (tmp_path / 'result.json').write_text('{"half')
    with pytest.raises(ValueError, match='a run of another config'):  # which may not be told to remove it
        train(helpers.make_config(epochs=2, num_seeds=1, seed=1), tmp_path, data)
    with pytest.raises(ValueError, match='a run on other data'):
        train(config, tmp_path, data._replace(sha256='other'))


def test_a_run_that_an_older_version_began_goes_on(tmp_path):
    """Its config lacks the entries that there are since; without them it did what their defaults say."""
    config, data = helpers.make_config(epochs=2, num_seeds=1), first_examples(load('digits'), 100)
    first = train(config, tmp_path, data)
    for name in ('config.json', 'result.json'):
        held = json.loads((tmp_path / name).read_text())
        older = held if name == 'config.json' else held['config']
        for entry in (older, older['optimizer'], older['synapse_optimizer']):
            for key in {'average_flips', 'label_smoothing', 'decays'} & entry.keys():
                del entry[key]
        (tmp_path / name).write_text(json.dumps(held))
    assert train(config, tmp_path, data)['per_seed'] == first['per_seed']
    config.label_smoothing = 0.1
    with pytest.raises(ValueError, match=r'label_smoothing: 0.0 there, 0.1 here\nChoose'):
        train(config, tmp_path, data)


def test_a_damaged_config_can_be_put_back(tmp_path):
    config = helpers.make_config()
    for name in ('mine', 'empty'):
        claim(tmp_path / name, config, 'data', 'code')
    (tmp_path / 'mine' / 'checkpoints').mkdir()
    path = tmp_path / 'mine' / 'config.json'
    path.write_text('{"half')
    remedy = 'put the file back: the command that began the run writes the same one into an empty folder'
    with pytest.raises(ValueError, match=f'{path} cannot be read .*{remedy}'):
        claim(tmp_path / 'mine', config, 'data', 'code')
    with pytest.raises(ValueError, match=remedy):
        restore(tmp_path / 'mine')
    path.unlink()
    with pytest.raises(ValueError, match=f'checkpoints of a run, but no config.json .*{remedy}'):
        claim(tmp_path / 'mine', config, 'data', 'code')
    path.write_bytes((tmp_path / 'empty' / 'config.json').read_bytes())
    claim(tmp_path / 'mine', config, 'data', 'code')


@pytest.mark.parametrize(
    'text', [b'\xff\xfe', b'epoch,seed\n1,x\n', b'epoch,seed\n1,2,3\n', b'loss\n1\n', b'epoch\n"1\n']
)
def test_damaged_metrics_are_named(tmp_path, text):
    path = tmp_path / 'metrics.csv'
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f'{path} cannot be read .*remove that file, and nothing else'):
        read_metrics(path)


def test_a_finished_run_trains_longer(tmp_path, caplog):
    """To the numbers of a run that had these epochs from the start, where the rate does not depend on them."""
    steady = {'num_seeds': 1, 'optimizer.schedule': 'constant', 'synapse_optimizer.schedule': 'constant'}
    data = first_examples(load('digits'), 100)
    first = train(helpers.make_config(epochs=2, **steady), tmp_path / 'longer', data)
    longer = helpers.make_config(epochs=4, checkpoint_every=3, **steady)
    whole = train(longer, tmp_path / 'whole', data)
    assert train(longer, tmp_path / 'longer', data, profile=1)['per_seed'] == whole['per_seed']
    assert (tmp_path / 'longer' / 'profile').exists()
    assert read_result(tmp_path / 'longer' / 'result-2.json')['per_seed'] == first['per_seed']
    assert restore(tmp_path / 'longer', data).config.epochs == 4
    assert len(read_metrics(tmp_path / 'longer' / 'metrics.csv')) == 4
    assert not [record for record in caplog.records if record.levelname == 'WARNING']
    for _ in range(2):  # nothing has changed
        with pytest.raises(ValueError, match='holds 4 epochs of this run; epochs must be at least that, got 3'):
            train(helpers.make_config(epochs=3, **steady), tmp_path / 'longer', data)
    assert train(longer, tmp_path / 'longer', data)['per_seed'] == whole['per_seed']


def test_where_the_data_are_now_is_noted(tmp_path):
    """What is to be evaluated must find them."""
    claim(tmp_path, helpers.make_config(data_dir='old'), 'data', 'code')
    moved = helpers.make_config(data_dir='new', bad_examples='skip', on_nan='rollback')
    claim(tmp_path, moved, 'data', 'code')
    go_on(tmp_path, moved, epoch=1)
    assert read_config(tmp_path) == plain(moved)


@pytest.mark.parametrize(('entry', 'there', 'here'), [('train_examples', 0, 50), ('dataset', "'digits'", "'mnist'")])
def test_entries_that_change_the_data_are_told_as_entries(tmp_path, entry, there, here):
    claim(tmp_path, helpers.make_config(), 'data', 'code')
    other = helpers.make_config(**{entry: ast.literal_eval(str(here))})
    with pytest.raises(ValueError, match=f'of another config:\n  {entry}: {there} there, {here} here\nChoose'):
        claim(tmp_path, other, 'other data', 'code')


def test_where_the_rate_depends_on_the_epochs_a_warning_says_so(tmp_path, caplog):
    for epochs in (2, 3):
        config = helpers.make_config(epochs=epochs)
        claim(tmp_path, config, 'data', 'code')
        go_on(tmp_path, config, epoch=2)
    assert 'learning rates go on as the schedule of 3 epochs has them from here' in caplog.text


@pytest.mark.parametrize(('number', 'told'), [(errno.ENOLCK, True), (errno.EROFS, False), (errno.EACCES, False)])
def test_a_file_system_without_locks_is_told_of_but_not_one_that_cannot_be_written(
    number, told, tmp_path, caplog, monkeypatch
):
    """What cannot be written says so itself."""

    def acquire(self):
        raise OSError(number, 'as the system says it')

    monkeypatch.setattr(filelock.FileLock, 'acquire', acquire)
    with caplog.at_level(logging.WARNING), held(epath.Path(tmp_path)):
        pass
    assert ('its file system has no locks' in caplog.text) == told
