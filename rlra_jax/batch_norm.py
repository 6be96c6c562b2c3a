"""Edges that lead back through batch normalisation.

Where h_j = gamma (b - mean b) / std b + offset, channel by channel over examples and positions, with b what the
forward path makes of z_i, an error e_j comes back to b as (gamma / std b) P e_j: P takes from it, in each channel, its
mean and its component along the standardised b. P no synapse can learn, since P couples the examples of a batch. But
all that P asks for is b up to scale and offset. Where nothing but residual skips is added to what is normalised, that
is h_j less the skips; elsewhere it is what the synapse sees of z_i, once it has learned.

The scale belongs to the channel. A synapse of the rule `mirror` regresses on what leaves the normalisation, and learns
the scale along with the weights that it transposes; one of the rule `fixed` has a scale of its own. One of another rule
learns those weights at most, so errors take the scale, too: std b is that of b as the synapse sees it, and |gamma| the
standard deviation of h_j less the skips, or 1 where that is not known (gamma below 0 is rare). Without std b errors
would grow from level to level as the weights do, which normalisation hides from the forward path.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import lax

from rlra_jax.synapses import transmit_back
from rlra_jax.types import Array, Edge, Phi, PyTree, Region, Wiring

_EPSILON = 1e-5  # as flax's BatchNorm adds to the variance


def mark_batch_norm(wiring: Wiring, regions: Sequence[Region] = ()) -> Wiring:
    """The wiring with `batch_norm` set on every edge from one hidden region to another, but for residual skips.

    Args:
      wiring: the error pathways.
      regions: what `sites` returned. With them, edges also know what residual skips add to what is normalised, if that
        is all that is added.
    """
    by_name = {region.name: region for region in regions}

    def marked(edge: Edge) -> Edge:
        if edge.source == wiring.output or edge.kind == 'identity':
            return dataclasses.replace(edge, batch_norm=False)
        source = by_name.get(edge.source)
        alone = source is not None and set(source.inputs) - set(source.skips) == {edge.target}
        return dataclasses.replace(edge, batch_norm=True, skips=source.skips if source and alone else None)

    return dataclasses.replace(wiring, levels=tuple(tuple(map(marked, level)) for level in wiring.levels))


def through(edge: Edge, E: PyTree, signal: Array, h: Mapping[str, Array], phi: Mapping[str, Phi]) -> Array:
    """A signal `[B, ...j]` at the edge's source, an error or a response, as it leaves a normalisation backwards.

    On edges that are not marked it is the signal itself.

    Args:
      edge: j -> i.
      E: its synapse.
      signal: `[B, ...j]`.
      h: region -> pre-activation `[B, ...]`, at least of i, j and what j skips.
      phi: hidden region -> activation function.
    """
    if not edge.batch_norm:
        return signal
    normalised = None if edge.skips is None else h[edge.source] - sum(phi[name](h[name]) for name in edge.skips)
    own_scale = edge.rule in ('mirror', 'fixed')
    if own_scale and normalised is not None:
        return project(signal, normalised)
    b = transmit_back(edge.kind, E, phi[edge.target](h[edge.target]), signal.shape)
    projected = project(signal, b if normalised is None else normalised)
    if own_scale:
        return projected
    gamma = 1.0 if normalised is None else jnp.sqrt(_variance(normalised))
    return projected * gamma * lax.rsqrt(_variance(b) + _EPSILON)


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
