import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlra_jax.synapses import SYNAPSES, correlate, transmit, transmit_back

SHAPES = [((5, 4), (5, 3)), ((5, 4), (5, 2, 3, 2)), ((5, 2, 2), (5, 3))]


@pytest.mark.parametrize('kind', SYNAPSES)
@pytest.mark.parametrize(('source', 'target'), SHAPES)
def test_transposes_are_transposes(kind, source, target):
    """<T(E, e), v> = <e, T^T v> = <E, B correlate(e, v)> for every kind: transmit is linear in E and in e."""
    keys = jax.random.split(jax.random.key(0), 3)
    E = SYNAPSES[kind].init(keys[0], source, target, 1.0)
    e, v = jax.random.normal(keys[1], source), jax.random.normal(keys[2], target)
    inner = (transmit(kind, E, e, target) * v).sum()
    np.testing.assert_allclose((e * transmit_back(kind, E, v, source)).sum(), inner, rtol=1e-4)
    np.testing.assert_allclose((E * correlate(kind, E, e, v)).sum() * 5, inner, rtol=1e-4)


def test_dense_is_a_matrix():
    E = jnp.arange(12.0).reshape(4, 3)
    e = jnp.eye(4)[:2]
    np.testing.assert_array_equal(transmit('dense', E, e, (2, 3)), E[:2])


def test_initial_spread():
    E = SYNAPSES['dense'].init(jax.random.key(0), (1, 400), (1, 400), 0.05)
    np.testing.assert_allclose(E.std(), 0.05, rtol=0.02)
    np.testing.assert_allclose(E.mean(), 0.0, atol=1e-3)
