"""What an epoch sees and keeps."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from rlra_jax.experiment import scanned
from rlra_jax.experiment.data import Split
from rlra_jax.experiment.epoch import Run, _keep_best, epoch_order
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.scanned import evaluate, put
from rlra_jax.parallel.mesh import make_mesh
from rlra_jax.train_step import TrainState
from rlra_jax.types import State


def test_every_epoch_and_seed_has_an_order_of_its_own():
    orders = [np.asarray(epoch_order(np.int32(s), np.int32(e), 60, 3, 20)) for s in (0, 1) for e in (1, 2)]
    assert all(sorted(order.ravel()) == list(range(60)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 4


def test_the_first_of_equally_good_epochs_is_kept():
    old, new = (TrainState({'params': {'w': w}}, State({}, {}), ()) for w in (1, 2))
    run = Run(old, {'params': {'w': 0}}, jax.numpy.float32(0.25), jax.numpy.int32(3))
    assert int(_keep_best(run, new, jax.numpy.float32(0.25), 4).best_epoch) == 3
    better = _keep_best(run, new, jax.numpy.float32(0.2), 4)
    assert (int(better.best_epoch), int(better.best['params']['w'])) == (4, 2)


class Table(nn.Module):
    """Logits are the pixels."""

    @nn.compact
    def __call__(self, x):
        return x.reshape(x.shape[0], -1)


@pytest.mark.parametrize('classes', [8, 4])
def test_scores_match_numpy(monkeypatch, classes):
    """Over 2 whole chunks and a part; with at most five classes no top-5 guess is wrong."""
    monkeypatch.setattr(scanned, '_CHUNK', 20)
    rng = np.random.default_rng(0)
    logits = rng.permuted(np.tile(np.arange(classes, dtype=np.float32), (50, 1)), axis=1)
    label = rng.integers(0, classes, 50)
    examples = put(Split(logits.reshape(50, 1, classes, 1), label), Preprocess(0.5), make_mesh())
    score = evaluate(Table().apply, {}, examples, make_mesh())
    halved = logits.astype(np.float64) / 2
    own = halved[np.arange(50), label]
    above = (halved > own[:, None]).sum(axis=1)
    np.testing.assert_allclose(score.loss, (np.log(np.exp(halved).sum(axis=1)) - own).mean(), rtol=1e-5)
    np.testing.assert_allclose(score.error, (above > 0).mean(), rtol=1e-6)
    np.testing.assert_allclose(score.top5_error, (above >= 5).mean(), rtol=1e-6)
    assert (score.top5_error > 0) == (classes > 5)
