"""A loss that is not finite, and parameters that do not learn."""

import functools
import logging
import types

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.experiment import nonfinite
from rlra_jax.experiment.data import Split, first_examples, load
from rlra_jax.experiment.epoch import epoch_order
from rlra_jax.experiment.metrics import read_metrics
from rlra_jax.experiment.nonfinite import NonFiniteError, explain
from rlra_jax.experiment.scanned import Scanned
from rlra_jax.experiment.train import train


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


def test_labels_that_nobody_could_check_before_are_blamed_for_what_they_do(tmp_path):
    """Of records of one's own: neither the learning rate nor a region is at fault."""
    data = first_examples(load('digits'), 100)
    data = helpers.kept(data._replace(train=data.train._replace(label=data.train.label + 1)))
    with pytest.raises(NonFiniteError, match='the labels of that batch run from 1 to 10, the model has 10') as error:
        train(helpers.make_config(epochs=1, num_seeds=1), tmp_path, data)
    assert 'learning rate' not in str(error.value)


def test_images_that_are_not_finite_are_blamed_before_any_region():
    image = np.zeros((4, 2, 2, 1), np.float32)
    image[2, 1, 0] = np.inf
    label = np.array([0, 1, 2, -1])
    assert 'the images at [2] of that batch' in nonfinite._blame_data({'image': image, 'label': label}, 3)
    assert nonfinite._blame_data({'image': 0 * label, 'label': label}, 3) is None


@pytest.mark.full
def test_a_late_overflow_keeps_the_epochs_before_it(tmp_path, monkeypatch):
    """One bad image makes a NaN at its step; the state before that epoch is saved, whatever checkpoint_every says."""
    data = load('digits')
    image = np.array(data.train.image, np.float32)
    config = helpers.make_config(epochs=6, num_seeds=1, checkpoint_every=10)
    original = Scanned.epoch

    def poisoned(self, run, number):
        if number == 3:
            bad = image.copy()
            bad[5] = np.nan
            self.train = self.train._replace(image=jax.numpy.asarray(bad))
        return original(self, run, number)

    monkeypatch.setattr(Scanned, 'epoch', poisoned)
    order = np.asarray(epoch_order(np.int32(0), np.int32(3), 1197, 23, 50))
    (step,) = np.flatnonzero((order == 5).any(axis=1)) + 1
    place = int(np.flatnonzero(order[step - 1] == 5)[0])
    with pytest.raises(NonFiniteError, match=rf'at step {step} of 23 in epoch 3, .*: the images at \[{place}\]'):
        train(config, tmp_path / 'bad', data._replace(train=Split(image, data.train.label)))
    assert {row['epoch'] for row in read_metrics(tmp_path / 'bad' / 'metrics.csv')} == {1, 2}
    assert (tmp_path / 'bad' / 'checkpoints' / '2').is_dir()


@pytest.mark.full
def test_an_overflow_in_the_last_step_is_not_a_success(tmp_path):
    """Training losses are taken before each step; only the validation sees what the last one did."""
    changes = {'model.phi': 'relu', 'optimizer.name': 'sgd', 'optimizer.learning_rate': 1e38, 'batch_size': 1197}
    with pytest.raises(NonFiniteError, match='in the validation after epoch 1: region'):
        train(helpers.make_config(**changes, epochs=1), tmp_path)
    assert not (tmp_path / 'result.json').exists()
    assert not list((tmp_path / 'checkpoints').glob('[0-9]*'))


@pytest.mark.full
def test_synapses_that_overflow_are_named(tmp_path):
    changes = {'synapse_optimizer.learning_rate': 1e30, 'epochs': 1, 'learner.wiring': 'chain'}
    with pytest.raises(NonFiniteError, match=r"the error synapses \['output->/readout/kernel'"):
        train(helpers.make_config(**changes), tmp_path)


def test_a_step_is_looked_at_in_training_and_the_validation_is_not():
    """The variance of the batch is infinity less infinity; the running one has not seen it."""

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            h = nn.BatchNorm(use_running_average=not train)(x)
            return nn.Dense(2)(rlra_jax.Site(jnp.tanh, name='hidden')(h))

    x = jnp.array([[3e30], [1e30]])
    variables = Normed().init(jax.random.key(0), x)
    state = types.SimpleNamespace(variables=variables, weights={'params': variables['params'], 'synapses': ()})
    trainable = types.SimpleNamespace(replay=lambda *_: (state, {'image': x, 'label': jnp.zeros(2, jnp.int32)}))
    net = apart.bound(Normed(), x, {'train': True})
    experiment = types.SimpleNamespace(net=net, reads='image', steps_per_epoch=3)
    tell = functools.partial(explain, experiment, trainable, None, seed=0, index=0, epoch=1)
    assert "at step 3 of 3 in epoch 1: region 'hidden' is the first that is not" in str(tell(bad_step=2))
    assert 'in the validation after epoch 1: every region still is' in str(tell(bad_step=3))


def test_parameters_that_no_update_reaches_are_told(tmp_path, caplog):
    """sign units with a beta too small to flip any: their errors are exactly zero."""
    changes = {'model.phi': 'sign', 'learner.beta': 1e-6, 'learner.wiring': 'direct', 'learner.rule': 'fixed'}
    with caplog.at_level(logging.WARNING):
        train(helpers.make_config(epochs=2, **changes), tmp_path)
    (message,) = [r.getMessage() for r in caplog.records if 'no update reached' in r.getMessage()]
    assert 'dense_1/kernel' in message
    assert 'dense_2/bias' in message
    assert 'readout' not in message


@pytest.mark.parametrize(('warmup', 'told'), [(1.0, False), (0.0, True)])
def test_a_step_of_rate_zero_is_not_taken_for_errors_of_zero(tmp_path, caplog, warmup, told):
    """Of an epoch of one step, with which a warm-up begins; without one the sign units are told."""
    still = {'model.phi': 'sign', 'learner.beta': 1e-6, 'learner.wiring': 'direct', 'learner.rule': 'fixed'}
    one_step = {'train_examples': 50, 'batch_size': 50, 'optimizer.warmup_epochs': warmup}
    train(helpers.make_config(epochs=2, num_seeds=1, **one_step, **still), tmp_path)
    assert ('no update reached' in caplog.text) == told
