"""Straight error synapses: how an error travels over an edge that skips regions. For others see `path.py`.

A kind says how E is drawn, how often each of its parameters is used, and how a signal at the edge's target is seen from
its source: S(E, z), what a layer would compute whose weights the edge transposes. S is linear in E and in z. Its
transpose in z is how an error travels (`transmit`), its transpose in E how every rule learns (`correlate`), so a new
kind needs nothing else: one entry in `SYNAPSES`. (The other way round would be the same algebra, but convolutions'
transposes of transposes are an order of magnitude slower on a CPU.)

Shapes include the batch axis: a region of units is `[B, n]`, a map `[B, positions..., channels]`.
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.nn.convolve import convolve
from rlra_jax.types import Array, Edge, PyTree
from rlra_jax.validate import lookup

Shape = tuple[int, ...]
_CELLS = 4  # of a grid, along each axis


class Usage(NamedTuple):
    """How a synapse uses its parameters on one example; the rule `mirror` takes its step size from it."""

    repeats: float | np.ndarray  # broadcasts to E: connections a parameter serves, each with its squared coefficient
    inputs: float  # parameters per source channel, over how many independent views of them an example gives


def _every_position(source: Shape, target: Shape) -> tuple[int, ...]:
    return target[1:-1]


class Synapse(NamedTuple):
    """A kind of error synapse. Functions of shapes raise ValueError where the kind cannot join them."""

    init: Callable[[Array, Shape, Shape, float], PyTree]  # (key, source shape, target shape, std) -> E
    see: Callable[[PyTree, Array, Shape], Array]  # S: (E, z [B, ...target], source shape) -> [B, ...source]
    usage: Callable[[Shape, Shape], Usage]  # (source shape, target shape)
    # (source shape, target shape) -> into how many tiles each axis of the target falls; of a tile S sees only the sum
    tiles: Callable[[Shape, Shape], tuple[int, ...]] = _every_position


def tile_of(n: int, tiles: int) -> np.ndarray:
    """In which of so many runs, as even as can be, each of n positions is."""
    return np.arange(n) * tiles // n


def _dense_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[n_source, n_target]`, entries N(0, std^2), float32 or wider."""
    return std * jax.random.normal(key, (math.prod(source[1:]), math.prod(target[1:])))


def _dense_see(E: Array, z: Array, source: Shape) -> Array:
    """S = z E^T on flattened regions; D = e E."""
    return (z.reshape(z.shape[0], -1) @ E.T).reshape(source)


def _dense_usage(source: Shape, target: Shape) -> Usage:
    return Usage(1.0, math.prod(target[1:]))


def _channel_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[C_source, C_target]`."""
    return std * jax.random.normal(key, (source[-1], target[-1]))


def _channel_see(E: Array, z: Array, source: Shape) -> Array:
    """The sum of z over positions, E^T, shared out evenly; d_p = mean over positions (e) E at every position p."""
    total = z.sum(axis=tuple(range(1, z.ndim - 1))) @ E.T / math.prod(source[1:-1])
    return jnp.broadcast_to(total.reshape(source[0], *(1 for _ in source[1:-1]), source[-1]), source)


def _channel_usage(source: Shape, target: Shape) -> Usage:
    """The mean shares each connection out over the source's positions, in one view: they all predict the same."""
    return Usage(math.prod(target[1:-1]) / math.prod(source[1:-1]), target[-1])


def _one_tile(source: Shape, target: Shape) -> tuple[int, ...]:
    return tuple(1 for _ in target[1:-1])


def _cells(source: Shape, target: Shape) -> tuple[int, ...]:
    return tuple(min(n, _CELLS) for n in target[1:-1])


def _grid_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[n_source, cells * C_target]`."""
    return std * jax.random.normal(key, (math.prod(source[1:]), math.prod(_cells(source, target)) * target[-1]))


def _grid_see(E: Array, z: Array, source: Shape) -> Array:
    """S sums z over each cell, then is dense; d is the same at all positions of a cell, and dense between cells."""
    for axis, count in enumerate(_cells(source, z.shape), start=1):
        member = np.eye(count)[tile_of(z.shape[axis], count)]
        z = jnp.moveaxis(jnp.tensordot(z, member.astype(z.dtype), (axis, 0)), -1, axis)
    return _dense_see(E, z, source)


def _grid_usage(source: Shape, target: Shape) -> Usage:
    cells = zip(target[1:-1], _cells(source, target), strict=True)
    sizes = functools.reduce(np.multiply.outer, (np.bincount(tile_of(*axis)) for axis in cells), np.ones(()))
    return Usage(np.repeat(sizes.reshape(-1), target[-1])[None], sizes.size * target[-1])


def _token_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[C_source, C_target]`."""
    if source[1:-1] != target[1:-1]:
        raise ValueError(f"a 'token' synapse joins regions of the same positions; got {source} and {target}")
    return _channel_init(key, source, target, std)


def _token_see(E: Array, z: Array, source: Shape) -> Array:
    """S_p = z_p E^T at each position p; d_p = e_p E."""
    return z @ E.T


def _token_usage(source: Shape, target: Shape) -> Usage:
    positions = math.prod(source[1:-1])
    return Usage(positions, target[-1] / positions)


def _sliding(source: Shape, target: Shape) -> list[tuple[int, int, int]]:
    """Along each axis (first, last, stride): the source's position p sees positions stride p + first to + last.

    Padding is what SAME gives for sizes that a SAME convolution explains, else VALID. The kernel has 3 taps, or as many
    as a stack of 3-tap convolutions sees that halve the map until the stride is reached, 2 stride - 1. Sizes do not
    tell SAME padding from `stride - 1` zeros in front, as in networks that pad both sides alike; a map of an even size
    is halved by either, one position apart. Then the taps are those of both.
    """
    if not 3 <= len(source) == len(target) or any(n > m for n, m in zip(source[1:-1], target[1:-1], strict=True)):
        raise ValueError(
            "a 'conv_transpose' synapse joins maps [B, positions..., channels], the target of as many or more "
            f'positions along each axis; got {source} and {target}'
        )
    found = []
    for narrow, wide in zip(source[1:-1], target[1:-1], strict=True):
        stride = math.ceil(wide / narrow)
        same = math.ceil(wide / stride) == narrow
        if not same:
            stride = wide // narrow
        taps = max(3, 2 * stride - 1)
        low = max((narrow - 1) * stride + taps - wide, 0) // 2
        missing = max(stride - 1 - low, 0) if same else 0  # taps that only the other padding has
        found.append((-low - missing, taps - 1 - low, stride))
    return found


def _conv_transpose_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[taps..., C_source, C_target]`: tap by tap the transpose of a forward kernel `[taps..., C_in, C_out]`."""
    taps = [last - first + 1 for first, last, _ in _sliding(source, target)]
    return std * jax.random.normal(key, (*taps, source[-1], target[-1]))


def _conv_transpose_see(E: Array, z: Array, source: Shape) -> Array:
    """A convolution: at p the sum over taps t of E_t z_{stride p + first + t}; d is the transposed convolution of e."""
    sliding = _sliding(source, z.shape)
    padding = [
        (-first, (narrow - 1) * stride + last + 1 - wide)
        for (first, last, stride), narrow, wide in zip(sliding, source[1:-1], z.shape[1:-1], strict=True)
    ]
    dtype = jnp.result_type(E, z)
    w = jnp.swapaxes(E, -1, -2).astype(dtype)
    return convolve(z.astype(dtype), w, [stride for _, _, stride in sliding], padding)


def _conv_transpose_usage(source: Shape, target: Shape) -> Usage:
    """A tap is used wherever it stays inside the target."""
    repeats, sliding = np.ones(()), _sliding(source, target)
    for (first, last, stride), narrow, wide in zip(sliding, source[1:-1], target[1:-1], strict=True):
        reached = stride * np.arange(narrow) + np.arange(first, last + 1)[:, None]
        repeats = np.multiply.outer(repeats, ((reached >= 0) & (reached < wide)).sum(axis=1))
    inputs = target[-1] * repeats.size / math.prod(source[1:-1])
    return Usage(np.maximum(repeats, 1.0)[..., None, None], inputs)


SYNAPSES: dict[str, Synapse] = {
    'channel': Synapse(_channel_init, _channel_see, _channel_usage, _one_tile),
    'conv_transpose': Synapse(_conv_transpose_init, _conv_transpose_see, _conv_transpose_usage),
    'dense': Synapse(_dense_init, _dense_see, _dense_usage),
    'grid': Synapse(_grid_init, _grid_see, _grid_usage, _cells),
    'token': Synapse(_token_init, _token_see, _token_usage),
}


def synapse(kind: str) -> Synapse:
    """What a straight kind does; ValueError if there is none of that name."""
    return lookup(SYNAPSES, kind, 'kind of synapse')


def draw(edge: Edge, key: Array, source: Shape, target: Shape, std: float) -> PyTree:
    """A new synapse for an edge, entries N(0, std^2).

    Raises:
      ValueError: naming the edge, if its kind cannot join regions of these shapes.
    """
    try:
        return synapse(edge.kind).init(key, source, target, std)
    except ValueError as error:
        raise ValueError(f'edge {edge.name}: {error}') from error


def synapse_shapes(kind: str, source: Shape, target: Shape) -> PyTree:
    """E's tree of jax.ShapeDtypeStructs; ValueError if the kind cannot join regions of these shapes."""
    return jax.eval_shape(lambda key: synapse(kind).init(key, source, target, 1.0), jax.random.key(0))


def count(kind: str, source: Shape, target: Shape) -> int:
    """Parameters of a synapse; raises as `synapse_shapes` does."""
    return sum(leaf.size for leaf in jax.tree.leaves(synapse_shapes(kind, source, target)))


def transmit(kind: str, E: PyTree, e: Array, target: Shape) -> Array:
    """D = T(E, e): the displacement `[B, ...target]` that an error e `[B, ...source]` causes over the synapse E."""
    # S is linear, so the point does not matter. But it must lie on devices as E and e do: inside shard_map vjp would
    # else sum over them, and on meshes of explicit axes refuse e. Hence their sums, which nobody computes.
    point = functools.reduce(operator.add, map(jnp.sum, jax.tree.leaves(E)), e.sum(axis=tuple(range(1, e.ndim))))
    point = jnp.expand_dims(point, tuple(range(1, len(target))))
    seen, pull = jax.vjp(lambda z: synapse(kind).see(E, z, e.shape), jnp.broadcast_to(point, target))
    (d,) = pull(e.astype(seen.dtype))
    return d


def transmit_back(kind: str, E: PyTree, target: Array, source: Shape) -> Array:
    """S(E, z), the transpose of T in e: a signal at the edge's target `[B, ...target]` seen from its source."""
    return synapse(kind).see(E, target, source)


def correlate(kind: str, E: PyTree, source: Array, target: Array) -> PyTree:
    """The batch mean of source^T target, seen through the synapse: the transpose of S in E, in E's tree.

    Args:
      kind: a name in `SYNAPSES`.
      E: the synapse; only its shape and dtype matter.
      source: a signal `[B, ...]` at the edge's source (an error, or the response to noise).
      target: a signal `[B, ...]` at its target (an activity, a displacement, or noise).
    """
    seen, pull = jax.vjp(lambda E: synapse(kind).see(E, target, source.shape), E)
    (total,) = pull(source.astype(seen.dtype))
    return jax.tree.map(lambda g: g / source.shape[0], total)


class Straight:
    """One edge and its synapse's kind, between regions of these shapes `[B, ...]`: a linear map for all examples."""

    def __init__(self, edge: Edge, source: Shape, target: Shape):
        self.edges: tuple[Edge, ...] = (edge,)
        self._edge, self._source, self._target = edge, source, target

    def send(self, E: PyTree, e: Array) -> dict[str, Array]:
        """{edge name: displacement `[B, ...i]`} of an error `[B, ...j]`."""
        return {self._edge.name: transmit(self._edge.kind, E, e, self._target)}

    def see(self, E: PyTree, signals: Mapping[str, Array]) -> Array:
        """The transpose of `send` in e: a signal {edge name: `[B, ...i]`} at the target as it comes to the source."""
        return transmit_back(self._edge.kind, E, signals[self._edge.name], self._source)

    def correlate(self, E: PyTree, source: Array, signals: Mapping[str, Array]) -> PyTree:
        """The batch mean of source^T target, seen through the synapse."""
        return correlate(self._edge.kind, E, source, signals[self._edge.name])

    def curvature(self, E: PyTree, step: PyTree, xi: Mapping[str, Array], scale: Array | float) -> Any:
        """What each parameter's part of a step is divided by, from shapes alone; scale: from `mirror.curvature`."""
        return scale * synapse(self._edge.kind).usage(self._source, self._target).repeats

    def inputs(self, E: PyTree) -> float:
        """`Usage.inputs`: how many noise inputs a unit of the source has."""
        return synapse(self._edge.kind).usage(self._source, self._target).inputs
