"""Edges that lead back through batch normalisation.

Where h_j = gamma (b - mean b) / std b + offset, channel by channel over examples and positions, with b what the
forward path makes of z_i, an error e_j comes back to b as (gamma / std b) P e_j: P takes from it, in each channel, its
mean and its component along the standardised b. P no synapse can learn, since P couples the examples of a batch. But
all that P asks for is b up to scale and offset, and what the synapse sees of z_i is just that, once it has learned.

The scale belongs to the channel. A synapse of the rule `mirror` regresses on what leaves the normalisation, and learns
the scale along with the weights that it transposes. One of another rule learns those weights at most: of b as it sees
it, the scale is taken, too (up to gamma, which is near 1). Without that, errors grow from level to level as the weights
do, which normalisation hides from the forward path.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax

from rlra_jax.synapses import transmit_back
from rlra_jax.types import Array, Edge, PyTree, Wiring

_EPSILON = 1e-5  # as flax's BatchNorm adds to the variance


def mark_batch_norm(wiring: Wiring) -> Wiring:
    """The wiring with `batch_norm` set on every edge from one hidden region to another, but for residual skips."""

    def marked(edge: Edge) -> Edge:
        return dataclasses.replace(edge, batch_norm=edge.source != wiring.output and edge.kind != 'identity')

    return dataclasses.replace(wiring, levels=tuple(tuple(map(marked, level)) for level in wiring.levels))


def through(edge: Edge, E: PyTree, signal: Array, z: Array) -> Array:
    """A signal `[B, ...j]` at the edge's source, an error or a response, as it leaves a normalisation backwards.

    On edges that are not marked it is the signal itself.

    Args:
      edge: j -> i.
      E: its synapse.
      signal: `[B, ...j]`.
      z: the activity of its target `[B, ...i]`.
    """
    if not edge.batch_norm:
        return signal
    b = transmit_back(edge.kind, E, z, signal.shape)
    projected = project(signal, b)
    return projected if edge.rule == 'mirror' else projected * lax.rsqrt(_variance(b) + _EPSILON)


def project(signal: Array, b: Array) -> Array:
    """P signal `[B, ..., C]`, given b `[B, ..., C]` up to scale and offset."""
    b = (b - _mean(b)) * lax.rsqrt(_variance(b) + jnp.finfo(b.dtype).tiny)  # channels that see nothing stay 0
    signal = signal - _mean(signal)
    return signal - b * _mean(b * signal)


def _variance(signal: Array) -> Array:
    return _mean(jnp.square(signal - _mean(signal)))


def _mean(signal: Array) -> Array:
    """Of each channel."""
    return signal.mean(axis=tuple(range(signal.ndim - 1)), keepdims=True)
