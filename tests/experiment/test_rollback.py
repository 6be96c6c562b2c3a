"""Going back from a loss that is not finite, with lower learning rates."""

import json
import logging
import os

import helpers
import pytest
from etils import epath

from rlra_jax.experiment import train as train_module
from rlra_jax.experiment.checkpoint import Moments
from rlra_jax.experiment.data import first_examples, load
from rlra_jax.experiment.metrics import read_metrics
from rlra_jax.experiment.nonfinite import NonFiniteError
from rlra_jax.experiment.rollback import Rollbacks, lowered
from rlra_jax.experiment.train import train

pytestmark = pytest.mark.xdist_group('rollback')  # which share a run
# Mirrors are stable at rates below 2: at 8 they overflow in 46 steps or so.
WILD = {
    **{'num_seeds': 1, 'epochs': 12, 'batch_size': 20, 'checkpoint_every': 5, 'on_nan': 'rollback'},
    **{'synapse_optimizer.learning_rate': 8.0, 'synapse_optimizer.schedule': 'constant'},
    **{'learner.mirror_every': 1, 'learner.wiring': 'chain', 'model.widths': (8, 8)},
}
DATA = first_examples(load('digits'), 300)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """(workdir, what training returned, warnings) of a run that goes back."""
    workdir, records = tmp_path_factory.mktemp('whole'), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger('rlra_jax').addHandler(handler)
    result = train(helpers.make_config(**WILD), workdir, DATA)
    logging.getLogger('rlra_jax').removeHandler(handler)
    return workdir, result, records


def test_it_goes_back_with_lower_rates_until_they_do(whole):
    workdir, result, told = whole
    assert 1 <= len(told) == len(result['rollbacks']) <= 3
    for i, (line, known) in enumerate(zip(told, result['rollbacks'], strict=True), start=1):
        assert line.startswith('the loss of seed 0 is not finite at step ')
        assert line.endswith(
            f'back to the end of epoch {known["epoch"] - 1}, with learning rates times {0.5**i:g} from there'
        )
        assert '\n' not in line
    assert [row['epoch'] for row in read_metrics(workdir / 'metrics.csv')] == list(range(1, 13))
    assert json.loads((workdir / 'result.json').read_text()) == result


def test_it_stops_unless_told_otherwise(tmp_path, whole):
    config = helpers.make_config(**{**WILD, 'on_nan': 'stop'})
    with pytest.raises(NonFiniteError, match='Try a lower learning rate'):
        train(config, tmp_path, DATA)
    assert not (tmp_path / 'rollbacks.json').exists()
    result = train(helpers.make_config(**WILD), tmp_path, DATA)  # the same run, which is told now
    assert result['per_seed'] == whole[1]['per_seed']


class Killed(BaseException):
    pass


@pytest.mark.parametrize('where', helpers.quick(['forget', 'add'], 'forget'))
@pytest.mark.full
def test_killed_while_it_goes_back_it_comes_to_the_same_numbers(tmp_path, monkeypatch, where, whole):
    """Before the rollback is noted, and just after."""
    config = helpers.make_config(**WILD)
    owner = {'forget': Moments, 'add': Rollbacks}[where]
    act = getattr(owner, where)

    def killed(self, *args):
        act(self, *args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, killed)
        with pytest.raises(Killed):
            train(config, tmp_path / 'killed', DATA)
    resumed = train(config, tmp_path / 'killed', DATA)
    assert resumed['per_seed'] == whole[1]['per_seed']
    assert resumed['rollbacks'] == whole[1]['rollbacks']


def test_steps_of_an_epoch_that_failed_are_not_taken_up_again(tmp_path, whole):
    """Epochs with checkpoints within: theirs are of the old rates."""
    config = helpers.make_config(**{**WILD, 'checkpoint_every': 1, 'checkpoint_steps': 4})
    assert train(config, tmp_path, DATA)['per_seed'] == whole[1]['per_seed']


@pytest.mark.full
def test_rates_that_are_lowered_in_vain(tmp_path, caplog):
    rates = {'optimizer.name': 'sgd', 'optimizer.learning_rate': 1e25, 'optimizer.schedule': 'constant'}
    config = helpers.make_config(**{**WILD, **rates, 'learner.wiring': 'direct', 'model.phi': 'relu'})
    for times in (3, 0):  # the same command says the same
        caplog.clear()
        with pytest.raises(NonFiniteError, match=r'in epoch 1: .* It happened with learning rates times 0.125, too'):
            train(config, tmp_path, DATA)
        assert caplog.text.count('back to the end of epoch 0') == times


def test_data_are_not_mended_by_lower_rates(tmp_path):
    data = helpers.kept(DATA._replace(train=DATA.train._replace(label=DATA.train.label + 1)))
    with pytest.raises(NonFiniteError, match='the labels of that batch run from 1 to 10'):
        train(helpers.make_config(epochs=1, num_seeds=1, on_nan='rollback'), tmp_path, data)
    assert 'rollbacks.json' not in os.listdir(tmp_path)


def test_a_rollback_to_a_checkpoint_that_is_lost_is_forgotten(tmp_path):
    rollbacks = Rollbacks(epath.Path(tmp_path))
    for epoch in (3, 3, 7):
        rollbacks.add(epoch, ValueError('in vain'))
    assert [rollbacks.count(epoch) for epoch in (9, 6, 5)] == [3, 3, 2]
    assert [each['epoch'] for each in rollbacks.told()] == [3, 3]


def test_an_epoch_before_a_checkpoint_that_is_lost_is_told_of_once(tmp_path, monkeypatch):
    def fail(self, run, trainable, metrics, epoch, checkpoints):
        if epoch == 3 and not (tmp_path / 'rollbacks.json').exists():
            checkpoints.wait()
            (leaves,) = (tmp_path / 'checkpoints' / '2').glob('leaves*')
            leaves.write_bytes(leaves.read_bytes()[:-50])
            raise NonFiniteError('a fault')
        original(self, run, trainable, metrics, epoch, checkpoints)

    original = train_module._Trainer._require_finite
    monkeypatch.setattr(train_module._Trainer, '_require_finite', fail)
    train(helpers.make_config(epochs=4, num_seeds=1, checkpoint_every=1, on_nan='rollback'), tmp_path, DATA)
    assert [row['epoch'] for row in read_metrics(tmp_path / 'metrics.csv')] == [1, 2, 3, 4]


@pytest.mark.parametrize('told', [{'epoch': 3}, [3], [{'error': 'in vain'}]])
def test_a_file_that_tells_of_no_rollbacks_is_refused(tmp_path, told):
    (tmp_path / 'rollbacks.json').write_text(json.dumps({'rollbacks': told}))
    with pytest.raises(ValueError, match=r'rollbacks\.json: rollbacks must be a list of .*; remove that file'):
        Rollbacks(epath.Path(tmp_path)).count(9)


def test_all_rates_are_lowered_where_they_end_too():
    config = helpers.make_config(**{'optimizer.learning_rate': 0.4, 'optimizer.end_rate': 0.1})
    own = lowered(config, 2)
    assert (own['optimizer']['learning_rate'], own['optimizer']['end_rate']) == (0.1, 0.025)
    assert own['synapse_optimizer']['learning_rate'] == config.synapse_optimizer.learning_rate / 4
    assert train_module.plain(config) == {**own, **{k: config.to_dict()[k] for k in ('optimizer', 'synapse_optimizer')}}
