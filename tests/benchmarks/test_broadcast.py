import helpers
import pytest

from benchmarks import broadcast
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.train import train


def test_a_mean_knows_all_of_a_linear_readout_and_less_of_what_lies_below(tmp_path):
    config = helpers.make_config(num_seeds=1, epochs=1)
    config.model.phi = 'relu'
    train(config, tmp_path)
    first, last = broadcast.measure(restore(tmp_path), averaged=200, tried=100)
    assert last['share'] == pytest.approx(1, abs=1e-4)
    assert last['cosine'] == pytest.approx(1, abs=1e-4)
    assert 0.1 < first['share'] < first['cosine'] < 0.999
