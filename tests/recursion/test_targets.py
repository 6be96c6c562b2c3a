import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.targets import error_neurons, target

PLAIN = Options(beta=0.1)


def test_target_is_within_reach_of_the_layer():
    h, d = jnp.array([[0.5, -3.0]]), jnp.array([[100.0, -100.0]])
    np.testing.assert_allclose(target(jnp.tanh, h, PLAIN, d), np.tanh([[0.5 - 10.0, -3.0 + 10.0]]), rtol=1e-6)


def test_a_surrogate_moves_the_target_as_far_as_it_would_move():
    h, d = jnp.array([[0.5, -3.0]]), jnp.array([[2.0, -1.0]])
    y = target(jnp.sign, h, Options(beta=0.1, surrogate=jnp.tanh), d)
    np.testing.assert_allclose(y, [[1 + np.tanh(0.3) - np.tanh(0.5), -1 + np.tanh(-2.9) - np.tanh(-3.0)]], atol=1e-7)
    np.testing.assert_allclose(
        target(jnp.tanh, h, Options(beta=0.1, surrogate=jnp.tanh), d), target(jnp.tanh, h, PLAIN, d), atol=1e-7
    )


def test_error_mixture():
    z, y = jnp.array([[1.0, 0.5, 0.0]]), jnp.array([[0.0, 0.5, 2.0]])
    np.testing.assert_allclose(error_neurons(z, y, 0.19, PLAIN), [[0.19 + 0.81, 0.0, -0.38 - 0.81]], rtol=1e-6)
    np.testing.assert_allclose(error_neurons(z, y, 1.0, PLAIN), z - y)
    normalised = error_neurons(z, y, 1.0, Options(beta=0.1, normalise=True))
    np.testing.assert_allclose(normalised, 10 * (z - y), rtol=1e-6)


@pytest.mark.parametrize(('p', 'q'), [(1, 1), (2, 2), (2, 1), (3, 2), (1.5, 3), (np.inf, 2)])
def test_total_discrepancy_is_equation_2(p, q):
    rng = np.random.default_rng(0)
    z, y = ({'a': rng.normal(size=(3, 4)), 'b': rng.normal(size=(3, 2, 2))} for _ in range(2))
    expected = np.zeros(3)
    for n in range(3):
        for name, kappa in (('a', 0.5), ('b', 1.0)):
            expected[n] += kappa * np.linalg.norm((z[name][n] - y[name][n]).reshape(-1), p) ** q
    missed = {name: jnp.asarray(z[name] - y[name]) for name in z}
    ours = rlra_jax.total_discrepancy(missed, {'a': 0.5}, p=p, q=q)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize(('kwargs', 'message'), [({'p': 0.5}, 'p = 0.5'), ({'q': 0}, 'q = 0')])
def test_bad_norms(kwargs, message):
    z = {'a': jnp.zeros((1, 2))}
    with pytest.raises(ValueError, match=message):
        rlra_jax.total_discrepancy(z, **kwargs)
