"""Backward passes over other weights."""

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.model.backward_pass import BackwardPass


def like(tree, seed, std=0.5):
    """Normal numbers in the place of each leaf that is no whole number."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten([std * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)])


def passing(function, params, z):
    """BackwardPass of function(params, z)."""
    return BackwardPass(lambda params, rest, _: (function(params, rest['z']), ()), params, {'z': z}, ())


def assert_near(came, expected, tolerance=1e-5):
    np.testing.assert_allclose(came, expected, rtol=0, atol=tolerance * float(jnp.abs(expected).max()))
