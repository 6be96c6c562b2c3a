"""A synapse of full size."""

import dataclasses
import math

import jax

from rlra_jax.edges import Shape
from rlra_jax.synapses.straight import StraightKind, Usage
from rlra_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Dense(StraightKind):
    """d = e E on flattened regions."""

    def init(self, key: Array, source: Shape, target: Shape, std: float) -> Array:
        """E `[n_source, n_target]`, float32 or wider."""
        return std * jax.random.normal(key, (math.prod(source[1:]), math.prod(target[1:])))

    def see(self, E: Array, z: Array, source: Shape) -> Array:
        """S = z E^T on flattened regions."""
        flat, joined = z.reshape(z.shape[0], -1), (math.prod(source[1:]), math.prod(z.shape[1:]))
        if E.shape != joined:
            raise ValueError(
                f'a Dense synapse {E.shape} cannot join regions of {joined[0]} and {joined[1]} numbers: batches of '
                "other shapes than a net's example need a net of their own, or other kinds of synapse"
            )
        return (flat @ E.T).reshape(source)

    def usage(self, source: Shape, target: Shape) -> Usage:
        return Usage(1.0, math.prod(target[1:]))
