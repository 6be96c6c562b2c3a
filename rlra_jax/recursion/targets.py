"""Equations 2 to 4 of the paper: what a region should have computed, and by how much it missed."""

from collections.abc import Mapping

import jax.numpy as jnp

from rlra_jax.recursion.options import Options
from rlra_jax.types import Array, Phi


def target(phi: Phi, h: Array, options: Options, d: Array) -> Array:
    """Eq. 3: y = phi(h - beta d), a target within the region's reach. All arrays `[B, ...]`.

    With a surrogate s of phi, y = phi(h) + s(h - beta d) - s(h): as far from the activity as s would move.
    """
    reached, surrogate = h - options.beta * d, options.surrogate
    return phi(reached) if surrogate is None else phi(h) + (surrogate(reached) - surrogate(h))


def error_neurons(z: Array, y: Array, alpha: float, options: Options) -> Array:
    """Eq. 4: e = z - y, over beta if normalised; with alpha < 1 the mixture alpha e + (1 - alpha) sign(e)."""
    e = (z - y) / options.beta if options.normalise else z - y
    return e if alpha == 1 else alpha * e + (1.0 - alpha) * jnp.sign(e)


def total_discrepancy(
    missed: Mapping[str, Array], kappa: Mapping[str, float] | None = None, p: float = 2.0, q: float = 2.0
) -> Array:
    """Eq. 2: sum over regions of kappa (||z - y||_p)^q, per example.

    Args:
      missed: region -> z - y, activity less target `[B, ...]`.
      kappa: region -> weight; regions left out weigh 1.
      p: the norm, at least 1.
      q: its power, above 0.

    Returns:
      `[B]`.

    Raises:
      ValueError: p or q is out of range.
    """
    if p < 1 or q <= 0:
        raise ValueError(f'a norm needs p >= 1 and q > 0; got p = {p}, q = {q}')
    weights = kappa or {}
    return jnp.asarray(sum(weights.get(name, 1.0) * _norm_power(v, p, q) for name, v in missed.items()))


def _norm_power(v: Array, p: float, q: float) -> Array:
    flat = jnp.abs(v.reshape(v.shape[0], -1))
    if p == jnp.inf:
        return flat.max(axis=1) ** q
    total = (flat**p).sum(axis=1)
    return total if p == q else total ** (q / p)
