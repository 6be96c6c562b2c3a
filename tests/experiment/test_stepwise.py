"""Training on data that is read as it goes on."""

import helpers
import imagenet_sample
import jax
import numpy as np
import pytest

from configs import common, imagenet2012
from rlra_jax.experiment import train as train_module
from rlra_jax.experiment.data import first_examples, load
from rlra_jax.experiment.metrics import FIELDS, read_metrics
from rlra_jax.experiment.nonfinite import NonFiniteError
from rlra_jax.experiment.records import Records, open_records
from rlra_jax.experiment.stepwise import Stepwise
from rlra_jax.experiment.train import train
from rlra_jax.experiment.watch import FIELDS as WATCHED
from rlra_jax.nn import ResNet18

DIGITS = {'num_seeds': 1, 'epochs': 2, 'learner.rule': 'kp', 'augment.flip': True, 'diagnostics': True}
THIN = (
    'rule=kp,model.blocks=(1,),model.width=4,model.dtype=float32,batch_size=16,epochs=2,learner.wiring=direct,'
    'optimizer.learning_rate=0.05,optimizer.schedule=constant'
)


def photographs(folder):
    """42 images of 32 x 32 to train on, of which 10 are left out of an epoch; 18 to validate; 10 to test."""
    (train, test), *_ = open_records('imagenet2012', ('train', 'validation'), str(folder), side=32)
    data = load('imagenet2012', str(folder))
    return data._replace(train=train.part(None, 42), val=train.part(42, None), test=test)


def numbers(workdir):
    return np.array([[row[field] for field in FIELDS] for row in read_metrics(workdir / 'metrics.csv')])


def test_the_same_data_gives_the_same_numbers_as_a_scan(tmp_path):
    """Losses, errors, diagnostics and result.json: only when the data is read differs."""
    config = helpers.make_config(**DIGITS)
    data = first_examples(load('digits'), 240)
    results = [train(config, tmp_path / n, d) for n, d in (('scan', data), ('steps', helpers.kept(data)))]
    rows = [read_metrics(tmp_path / name / 'metrics.csv') for name in ('scan', 'steps')]
    for one, other in zip(*rows, strict=True):
        assert one.keys() == other.keys()
        for name in set(one) - {'seconds', *WATCHED}:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for name, value in results[0]['per_seed'][0].items():
        np.testing.assert_allclose(results[1]['per_seed'][0][name], value, rtol=1e-5, err_msg=name)


class KilledError(Exception):
    pass


@pytest.mark.full
def test_a_thin_resnet_trains_and_resumes(tmp_path, monkeypatch):
    """Two epochs on JPEGs; stopped while the second epoch reads, the same command ends with the same numbers."""
    imagenet_sample.write(tmp_path)
    data, config = photographs(tmp_path), imagenet2012.get_config(THIN)
    runs = []
    save = train_module.Checkpoints.save
    monkeypatch.setattr(train_module.Checkpoints, 'save', lambda self, *args: (save(self, *args), runs.append(args[1])))
    whole = train(config, tmp_path / 'whole', data)
    assert whole['steps_per_epoch'] == 2
    assert whole['data_sha256'].startswith('files:')
    losses = numbers(tmp_path / 'whole')[:, 0]
    assert losses[1] < losses[0]

    variables = jax.tree.map(lambda leaf: leaf[0], runs[-1].best)
    examples = [data.val.read(place, None) for place in range(data.val.size)]
    image, label = (np.stack([example[name] for example in examples]) for name in ('image', 'label'))
    x = train_module.make_preprocess(data, contrast=True, zca=False)(image)
    model = ResNet18(blocks=(1,), width=4, classes=1000, stem='imagenet')
    logits = np.asarray(jax.jit(model.apply)(variables, x))
    order = np.argsort(-logits, axis=1)
    np.testing.assert_allclose(whole['val_error'], 100 * np.mean(order[:, 0] != label), rtol=1e-6)
    within = (order[:, :5] == label[:, None]).any(axis=1)
    np.testing.assert_allclose(whole['val_top5_error'], 100 * np.mean(~within), rtol=1e-6)

    read, at = Records.read, []

    def stop(self, place, key):
        at.append(key)
        if key == (0, 2) and at.count(key) > 20:
            raise KilledError
        return read(self, place, key)

    with monkeypatch.context() as patch:
        patch.setattr(Records, 'read', stop)
        with pytest.raises(KilledError):
            train(config, tmp_path / 'stopped', data)
    assert len(numbers(tmp_path / 'stopped')) == 1
    resumed = train(config, tmp_path / 'stopped', data)
    assert resumed['per_seed'] == whole['per_seed']
    np.testing.assert_array_equal(numbers(tmp_path / 'stopped'), numbers(tmp_path / 'whole'))


def test_resumes_within_an_epoch(tmp_path, monkeypatch):
    """Stopped in the second epoch, at its second Moment: what was done before is neither read nor run again."""
    data = helpers.kept(first_examples(load('digits'), 300))
    config = helpers.make_config(**DIGITS, batch_size=50, checkpoint_steps=2)
    whole = train(config, tmp_path / 'whole', data)
    assert whole['steps_per_epoch'] == 6
    save, batches, orders = train_module.Moments.save, Records.batches, []

    def save_then_stop(self, epoch, done, moment):
        save(self, epoch, done, moment)
        if (epoch, done) == (2, 4):
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(train_module.Moments, 'save', save_then_stop)
        with pytest.raises(KilledError):
            train(config, tmp_path / 'stopped', data)
    assert max(int(path.name) for path in (tmp_path / 'stopped' / 'moments').iterdir()) == 6 + 4

    def watch(self, order, key=None):
        orders.extend([order] if key == (0, 2) else [])
        return batches(self, order, key)

    monkeypatch.setattr(Records, 'batches', watch)
    restore = train_module.Moments.restore

    def long_ago(self, *args):
        done, moment = restore(self, *args)
        assert moment.seconds > 0
        return done, moment._replace(seconds=np.float32(1e4))

    monkeypatch.setattr(train_module.Moments, 'restore', long_ago)
    resumed = train(config, tmp_path / 'stopped', data)
    assert read_metrics(tmp_path / 'stopped' / 'metrics.csv')[1]['seconds'] > 1e4  # earlier sittings count
    assert [order.shape for order in orders] == [(2, 50)]
    assert resumed['per_seed'] == whole['per_seed']
    np.testing.assert_array_equal(numbers(tmp_path / 'stopped'), numbers(tmp_path / 'whole'))


@pytest.mark.parametrize(
    ('rate', 'place'),
    [
        (1e25, r'at step [2-4] of 4 in'),
        pytest.param(3e38, 'in the validation after', marks=pytest.mark.full),
    ],
)
def test_a_loss_that_is_not_finite_says_where(tmp_path, rate, place):
    changes = {'model.phi': 'relu', 'optimizer.name': 'sgd', 'optimizer.learning_rate': rate, 'learner.rule': 'kp'}
    size = 50 if place.startswith('at') else 200
    config = helpers.make_config(**changes, batch_size=size, num_seeds=1, epochs=1)
    data = helpers.kept(first_examples(load('digits'), 200))
    with pytest.raises(NonFiniteError, match=f'seed 0 is not finite {place} epoch 1: region'):
        train(config, tmp_path, data)
    assert read_metrics(tmp_path / 'metrics.csv') == []


def test_a_loss_that_is_not_finite_is_told_at_the_next_moment(tmp_path, monkeypatch):
    """Not after an epoch of days; and no later Moment is saved than those from which one can go on."""
    options = {'model.phi': 'relu', 'optimizer.name': 'sgd', 'optimizer.learning_rate': 1e25, 'learner.rule': 'kp'}
    config = helpers.make_config(**options, batch_size=10, num_seeds=1, epochs=1, checkpoint_steps=1)
    data = helpers.kept(first_examples(load('digits'), 200))
    totals, found = [], []
    total, restore = Stepwise._total, train_module.Moments.restore

    def restored(self, *args):
        found.append(restore(self, *args))
        return found[-1]

    monkeypatch.setattr(train_module.Moments, 'restore', restored)
    monkeypatch.setattr(Stepwise, '_total', lambda self, *args: (totals.append(args), total(self, *args))[1])
    with pytest.raises(NonFiniteError, match=r'seed 0 is not finite at step [2-4] of 20 in epoch 1: region'):
        train(config, tmp_path, data)
    assert not totals
    assert len(found) == 2
    assert found[1][0] == max(int(path.name) for path in (tmp_path / 'moments').iterdir())  # the search began there
    assert np.isfinite(found[1][1].losses).all()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'num_seeds': 2}, 'num_seeds must be 1 for digits, which is read as training goes on; got 2'),
        ({'batch_size': 1198}, 'batch_size must be from 1 to the 1197 training examples; got 1198'),
        ({'checkpoint_steps': -1}, 'checkpoint_steps must be a whole number of at least 0; got -1'),
        ({'checkpoint_steps': 5, 'checkpoint_every': 2}, 'checkpoint_every must be 1 with checkpoint_steps.*; got 2'),
        ({'preprocess.zca': True}, 'preprocess.zca must be False for digits, which is read as training goes on'),
    ],
)
def test_what_cannot_be(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(helpers.make_config(**{'num_seeds': 1, **changes}), tmp_path / 'never', helpers.kept(load('digits')))
    assert not (tmp_path / 'never').exists()


@pytest.mark.full
def test_the_committed_config_trains_on_a_small_sample(tmp_path):
    """As a user starts it: crops of 224 x 224, a network of usual depth."""
    imagenet_sample.write(tmp_path)
    thin = 'model.width=4,batch_size=8,epochs=1,model.dtype=float32'
    config = common.override(imagenet2012.get_config(thin), {'data_dir': str(tmp_path)})
    result = train(config, tmp_path / 'run')
    assert result['steps_per_epoch'] == 7
    assert result['test_error'] <= 100
