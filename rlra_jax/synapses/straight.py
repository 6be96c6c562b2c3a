"""Straight error synapses, between any two regions: a linear map that is the same for all examples.

A kind says how E is drawn, how often each of its parameters is used, and how a signal at the edge's target is seen from
its source: S(E, z), what a layer would compute whose weights the edge transposes. S is linear in E and in z. Its
transpose in z is how an error travels (`transmit`), its transpose in E how every rule learns (`correlate`), so a new
kind needs nothing else: one file, and one export. (The other way round would be the same algebra, but on CPUs
transposes of a convolution's transpose are slow.)

Shapes include the batch axis: a region of units is `[B, n]`, a map `[B, positions..., channels]`.
"""

import abc
import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.edges import Edge, Kind, Params, Shape
from rlra_jax.types import Array, PyTree, Region
from rlra_jax.validate import require


class Usage(NamedTuple):
    """How a synapse uses its parameters on one example; the rule `Mirror` takes its step size from it."""

    # Broadcasts to E: how many (source, target) pairs each parameter connects, each with its squared coefficient.
    repeats: float | np.ndarray
    inputs: float  # parameters per source channel, divided by the positions that share them


@dataclasses.dataclass(frozen=True)
class StraightKind(Kind):
    """What straight kinds have in common. Functions of shapes raise ValueError where a kind cannot join them.

    Attributes:
      share: 'calls': edges to calls of one Site, or to iterations of a loop, have one E where these use the same
        parameters; it gets the sum of their updates, of a rule that learns from noise the mean. 'none': each its own.

    Raises:
      ValueError: share is neither.
    """

    share: str = dataclasses.field(default='calls', kw_only=True)

    def __post_init__(self):
        require(self.share in ('calls', 'none'), 'share', "'calls' or 'none'", self.share)

    @abc.abstractmethod
    def init(self, key: Array, source: Shape, target: Shape, std: float) -> Array:
        """E, entries N(0, std^2)."""

    @abc.abstractmethod
    def see(self, E: Array, z: Array, source: Shape) -> Array:
        """S: a signal `[B, ...]` at the target as it comes to the source `[B, ...]`; the transpose of D = T(E, e)."""

    @abc.abstractmethod
    def usage(self, source: Shape, target: Shape) -> Usage:
        """How it uses its parameters."""

    def draw(
        self, key: Array, source: Region, target: Region, params: Params, std: float, *, from_nothing: bool = False
    ) -> Array:
        E = self.init(key, source.shape, target.shape, std)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(source.dtype, jnp.float32)), E)

    def size(self, source: Region, target: Region) -> int:
        return self.like(source, target).size

    def like(self, source: Region, target: Region) -> Any:
        """E as a jax.ShapeDtypeStruct."""
        return jax.eval_shape(lambda key: self.draw(key, source, target, {}, 1.0), jax.random.key(0))


def channels(shape: Shape) -> int:
    """Of a region `[B, positions..., C]`; `[B]` has one."""
    return math.prod(shape[1:][-1:])


def transmit(kind: StraightKind, E: PyTree, e: Array, target: Shape) -> Array:
    """D = T(E, e): the displacement `[B, ...target]` that an error e `[B, ...source]` causes over the synapse E."""
    # S is linear, so the point does not matter. But it must lie on devices as E and e do: inside shard_map vjp would
    # else sum over them, and on meshes of explicit axes refuse e. Hence their sums, which nobody computes.
    point = functools.reduce(operator.add, map(jnp.sum, jax.tree.leaves(E)), e.sum(axis=tuple(range(1, e.ndim))))
    point = jnp.expand_dims(point, tuple(range(1, len(target))))
    seen, pull = jax.vjp(lambda z: kind.see(E, z, e.shape), jnp.broadcast_to(point, target))
    (d,) = pull(e.astype(seen.dtype))
    return d


def correlate(kind: StraightKind, E: PyTree, source: Array, target: Array) -> PyTree:
    """The batch mean of source^T target, seen through the synapse: the transpose of S in E, in E's tree.

    Args:
      kind: the synapse's.
      E: the synapse; only its shape and dtype matter.
      source: a signal `[B, ...]` at the edge's source (an error, or the response to noise).
      target: a signal `[B, ...]` at its target (an activity, a displacement, or noise).
    """
    seen, pull = jax.vjp(lambda E: kind.see(E, target, source.shape), E)
    (total,) = pull(source.astype(seen.dtype))
    return jax.tree.map(lambda g: g / source.shape[0], total)


class Straight:
    """One edge at work, between regions of these shapes `[B, ...]`."""

    def __init__(self, edge: Edge, source: Shape, target: Shape):
        self.edges: tuple[Edge, ...] = (edge,)
        self._name, self._source, self._target = edge.name, source, target
        self._kind: Any = edge.kind

    def send(self, E: PyTree, e: Array) -> dict[str, Array]:
        """{edge name: displacement `[B, ...i]`} of an error `[B, ...j]`."""
        return {self._name: transmit(self._kind, E, e, self._target)}

    def see(self, E: PyTree, signals: Mapping[str, Array]) -> Array:
        """The transpose of `send` in e: a signal {edge name: `[B, ...i]`} at the target as it comes to the source."""
        return self._kind.see(E, signals[self._name], self._source)

    def correlate(self, E: PyTree, source: Array, signals: Mapping[str, Array]) -> PyTree:
        """The batch mean of source^T target, seen through the synapse."""
        return correlate(self._kind, E, source, signals[self._name])

    def curvature(self, E: PyTree, step: PyTree, xi: Mapping[str, Array], scale: Array | float) -> Any:
        """What each parameter's part of a step is divided by, from shapes; scale: from `noisy_passes.curvature`."""
        return scale * self._kind.usage(self._source, self._target).repeats

    def inputs(self, E: PyTree) -> float:
        """`Usage.inputs`: how many noise inputs a unit of the source has."""
        return self._kind.usage(self._source, self._target).inputs
