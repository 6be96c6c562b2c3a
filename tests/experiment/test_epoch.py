"""What an epoch sees and keeps."""

import jax
import numpy as np

from rlra_jax.experiment.epoch import Run, _keep_best, epoch_order
from rlra_jax.train_step import TrainState


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
