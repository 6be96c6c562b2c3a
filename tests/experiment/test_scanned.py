import helpers
import pytest

from rlra_jax.experiment import train as train_module
from rlra_jax.experiment.data import first_examples, load
from rlra_jax.experiment.train import train


class KilledError(BaseException):
    pass


def test_goes_on_within_an_epoch(tmp_path, monkeypatch):
    """From the Moment that was saved last; several seeds share it."""
    config = helpers.make_config(num_seeds=2, epochs=2, batch_size=20, checkpoint_steps=4)
    data = first_examples(load('digits'), 300)
    whole = train(config, tmp_path / 'whole', data)
    save, restore, at = train_module.Moments.save, train_module.Moments.restore, []

    def save_then_die(self, epoch, done, moment):
        save(self, epoch, done, moment)
        if (epoch, done) == (2, 8):
            raise KilledError

    def watch(self, epoch, like):
        done, moment = restore(self, epoch, like)
        at.append((epoch, done))
        return done, moment

    monkeypatch.setattr(train_module.Moments, 'save', save_then_die)
    with pytest.raises(KilledError):
        train(config, tmp_path / 'killed', data)
    monkeypatch.setattr(train_module.Moments, 'save', save)
    monkeypatch.setattr(train_module.Moments, 'restore', watch)
    assert train(config, tmp_path / 'killed', data)['per_seed'] == whole['per_seed']
    assert at == [(2, 8)]
