"""Where the backward weights of a kernel come from: one policy for each algorithm that `backward.asymmetric` makes."""

import functools

import jax
import jax.numpy as jnp

from rlra_jax.learners.backward import Policy
from rlra_jax.loss import widen
from rlra_jax.synapses.path import draw_like, glorot
from rlra_jax.types import Array
from rlra_jax.validate import lookup, require_number

_LEARNT = functools.partial(draw_like, from_nothing=True)  # what learns from W, and so may start at 0 where W does


def transpose() -> Policy:
    """B = W: backprop."""
    return Policy(None, lambda E, W, key: W)


def fixed() -> Policy:
    """B stays as drawn (Lillicrap et al. 2016), from a normal distribution with the standard deviation of W.

    Or, of a W that starts at zero, with Glorot's: zeros would never pass an error.
    """
    return Policy(draw_like, lambda E, W, key: E)


def sign(magnitude: str) -> Policy:
    """B has the signs of W and magnitudes M of its own (Liao et al. 2016; Xiao et al. 2018).

    Args:
      magnitude: 'uniform', M = sqrt(2 / (fan_in + fan_out)) (uSF); 'batchwise', |N(0, 1)| times that, drawn at each
        step (brSF); or 'fixed', the same drawn once (frSF).

    Raises:
      ValueError: another magnitude.
    """

    def random(key: Array, W: Array) -> Array:
        return glorot(W) * jnp.abs(jax.random.normal(key, W.shape, widen(W).dtype))

    magnitudes = {
        'uniform': (None, lambda E, W, key: jnp.full(W.shape, glorot(W))),
        'batchwise': (None, lambda E, W, key: random(key, W)),
        'fixed': (random, lambda E, W, key: E),
    }
    draw, M = lookup(magnitudes, magnitude, 'magnitude')
    return Policy(draw, lambda E, W, key: M(E, W, key) * jnp.sign(W))


def kolen_pollack(decay: float) -> Policy:
    """E takes the very update of W, and both decay (Kolen and Pollack 1994; Akrout et al. 2019).

    E - W then decays by the factor 1 - rate * decay at each step, if plain SGD at one rate trains both.

    Raises:
      ValueError: a negative decay.
    """
    require_number('decay', decay, 0)
    return Policy(_LEARNT, lambda E, W, key: E, lambda E, dW, estimate: dW, decay=decay)


def weight_mirror() -> Policy:
    """E follows unbiased estimates of W from noise (Akrout et al. 2019): dE = E - estimate.

    Their rule with decay 1: what E tends to is W itself, and the synapse rate sets over how many estimates it averages.
    """

    def learn(E: Array, dW: Array, estimate: Array | None) -> Array:
        return jnp.zeros_like(E) if estimate is None else E - estimate

    return Policy(_LEARNT, lambda E, W, key: E, learn, mirrors=True)
