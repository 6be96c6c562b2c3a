"""Equations 2 to 4 of the paper: what a region should have computed, and by how much it missed."""

from collections.abc import Mapping

import jax.numpy as jnp

from rlra_jax.types import Array, Phi


def target(phi: Phi, h: Array, d: Array, beta: float, surrogate: Phi | None = None) -> Array:
    """Eq. 3: y = phi(h - beta d), a target within the region's reach. All arrays `[B, ...]`.

    With a surrogate s of phi, y = phi(h) + s(h - beta d) - s(h): as far from the activity as s would move.
    """
    reached = h - beta * d
    return phi(reached) if surrogate is None else phi(h) + (surrogate(reached) - surrogate(h))


def error_neurons(z: Array, y: Array, alpha: float = 1.0, scale: float = 1.0) -> Array:
    """Eq. 4: e = (z - y) / scale; with alpha < 1 the mixture alpha e + (1 - alpha) sign(e) (see WORKSPACE.md)."""
    e = (z - y) / scale
    return e if alpha == 1.0 else alpha * e + (1.0 - alpha) * jnp.sign(e)


def total_discrepancy(
    z: Mapping[str, Array],
    y: Mapping[str, Array],
    kappa: Mapping[str, float] | None = None,
    p: float = 2.0,
    q: float = 2.0,
) -> Array:
    """Eq. 2: sum over regions of kappa (||z - y||_p)^q, per example.

    Args:
      z: region -> activity `[B, ...]`.
      y: region -> target, of the same shapes.
      kappa: region -> weight; regions left out weigh 1.
      p: the norm, at least 1.
      q: its power, above 0.

    Returns:
      `[B]`.

    Raises:
      ValueError: z and y name different regions, or p or q is out of range.
    """
    if set(z) != set(y):
        raise ValueError(f'z and y must name the same regions; z has {sorted(z)}, y has {sorted(y)}')
    if p < 1 or q <= 0:
        raise ValueError(f'a norm needs p >= 1 and q > 0; got p = {p}, q = {q}')
    weights = kappa or {}
    return sum(
        (weights.get(name, 1.0) * _norm_power(z[name] - y[name], p, q) for name in z),
        start=jnp.zeros(()),
    )


def _norm_power(v: Array, p: float, q: float) -> Array:
    flat = jnp.abs(v.reshape(v.shape[0], -1))
    if p == jnp.inf:
        return flat.max(axis=1) ** q
    total = (flat**p).sum(axis=1)
    return total if p == q else total ** (q / p)
