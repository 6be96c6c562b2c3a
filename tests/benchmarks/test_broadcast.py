import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import broadcast
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.train import train


@pytest.mark.full
def test_a_mean_knows_all_of_a_linear_readout_and_less_of_what_lies_below(tmp_path):
    config = helpers.make_config(num_seeds=1, epochs=1)
    config.model.phi = 'relu'
    train(config, tmp_path)
    first, last = broadcast.measure(restore(tmp_path), averaged=200, tried=100)
    assert last['share'] == pytest.approx(1, abs=1e-4)
    assert last['cosine']['dense'] == pytest.approx(1, abs=1e-4)
    assert 0.1 < first['share'] < first['cosine']['dense'] < 0.999


@pytest.mark.parametrize(
    ('kind', 'parts', 'axes'),
    [('grid', (5, 4, 2, 4, 4, 3), (2, 4)), ('channel', (5, 8, 16, 3), (1, 2))],
)
def test_the_nearest_synapse_is_the_mean_over_what_it_cannot_tell(kind, parts, axes):
    jacobian = jax.random.normal(jax.random.key(0), (5, 8, 16, 3))
    expected = jnp.broadcast_to(jacobian.reshape(parts).mean(axis=axes, keepdims=True), parts)
    np.testing.assert_allclose(broadcast.nearest(kind, jacobian), expected.reshape(jacobian.shape), atol=1e-5)
    np.testing.assert_allclose(broadcast.nearest('dense', jacobian), jacobian, atol=1e-5)
