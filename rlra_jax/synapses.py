"""Error synapses: how an error travels over an edge.

A kind is a pair of functions (init, transmit). Since transmit is linear in E, its transpose (`correlate`) serves every
rule that learns E, so a new kind needs nothing else: one entry in `SYNAPSES`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.types import Array

Shape = tuple[int, ...]


class Synapse(NamedTuple):
    """A kind of error synapse; shapes include the batch axis."""

    init: Callable[[Array, Shape, Shape, float], Array]  # (key, source shape, target shape, std) -> E
    transmit: Callable[[Array, Array, Shape], Array]  # (E, e [B, ...source], target shape) -> d [B, ...target]


def _dense_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[n_source, n_target]`, entries N(0, std^2), float32 or wider."""
    return std * jax.random.normal(key, (math.prod(source[1:]), math.prod(target[1:])))


def _dense_transmit(E: Array, e: Array, target: Shape) -> Array:
    """D = e E on flattened regions."""
    return (e.reshape(e.shape[0], -1) @ E).reshape(target)


SYNAPSES: dict[str, Synapse] = {
    'dense': Synapse(_dense_init, _dense_transmit),
}


def transmit(kind: str, E: Array, e: Array, target: Shape) -> Array:
    """D = T(E, e): the displacement `[B, ...target]` that an error e `[B, ...source]` causes over the synapse E."""
    return SYNAPSES[kind].transmit(E, e, target)


def transmit_back(kind: str, E: Array, target: Array, source: Shape) -> Array:
    """The transpose of T in e: a signal at the edge's target `[B, ...target]` seen from its source `[B, ...source]`."""
    _, pull = jax.vjp(lambda e: transmit(kind, E, e, target.shape), jnp.zeros(source, target.dtype))
    (signal,) = pull(target)
    return signal


def correlate(kind: str, E: Array, source: Array, target: Array) -> Array:
    """The batch mean of source^T target, seen through the synapse: the transpose of T in E, of E's shape.

    Args:
      kind: a name in `SYNAPSES`.
      E: the synapse; only its shape and dtype matter.
      source: a signal `[B, ...]` at the edge's source (an error, or the response to noise).
      target: a signal `[B, ...]` at its target (an activity, a displacement, or noise).
    """
    _, pull = jax.vjp(lambda E: transmit(kind, E, source, target.shape), E)
    (total,) = pull(target.astype(jnp.result_type(E, source)))
    return total / source.shape[0]
