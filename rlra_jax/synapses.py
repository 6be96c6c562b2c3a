"""Error synapses: how an error travels over an edge.

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
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.convolve import convolve
from rlra_jax.types import Array, Edge, PyTree, Window, Windows
from rlra_jax.validate import lookup, require
from rlra_jax.windows import windows_by_shape

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


def _convolution(source: Shape, target: Shape, windows: Windows | None) -> Windows:
    if len(source) != len(target) or len(source) < 3 or len(source) - 2 != len(windows or source[2:]):
        axes = 'positions...' if windows is None else f'{len(windows)} axes of positions'
        raise ValueError(f"a 'conv_transpose' synapse joins maps [B, {axes}, channels]; got {source} and {target}")
    return windows or windows_by_shape(source, target)


def _taps(windows: Windows) -> tuple[int, ...]:
    return tuple(axis.last - axis.first + 1 for axis in windows)


def _conv_transpose_init(key: Array, source: Shape, target: Shape, std: float, windows: Windows | None = None) -> Array:
    """E `[taps..., C_source, C_target]`: tap by tap the transpose of the forward kernel `[taps..., C_in, C_out]`."""
    return std * jax.random.normal(key, (*_taps(_convolution(source, target, windows)), source[-1], target[-1]))


def _conv_transpose_see(E: Array, z: Array, source: Shape, windows: Windows | None = None) -> Array:
    """A convolution: at p the sum over taps t of E_t z_{stride p + first + t}; d is the transposed convolution of e."""
    dtype, windows = jnp.result_type(E, z), _convolution(source, z.shape, windows)
    padding = [
        (-axis.first, (narrow - 1) * axis.stride + axis.last + 1 - wide)
        for axis, narrow, wide in zip(windows, source[1:-1], z.shape[1:-1], strict=True)
    ]
    w = jnp.swapaxes(E, -1, -2).astype(dtype)
    return convolve(z.astype(dtype), w, [axis.stride for axis in windows], padding)


def _conv_transpose_bf16_see(E: Array, z: Array, source: Shape, windows: Windows | None = None) -> Array:
    """The same with factors in bfloat16, as the forward convolution of a model that computes in it."""
    seen = _conv_transpose_see(E.astype(jnp.bfloat16), z.astype(jnp.bfloat16), source, windows)
    return seen.astype(jnp.result_type(E, z))


def _conv_transpose_usage(source: Shape, target: Shape, windows: Windows | None = None) -> Usage:
    """A tap is used wherever it stays inside the target."""
    repeats, windows = np.ones(()), _convolution(source, target, windows)
    for axis, narrow, wide in zip(windows, source[1:-1], target[1:-1], strict=True):
        reached = axis.stride * np.arange(narrow) + np.arange(axis.first, axis.last + 1)[:, None]
        repeats = np.multiply.outer(repeats, ((reached >= 0) & (reached < wide)).sum(axis=1))
    inputs = target[-1] * math.prod(_taps(windows)) / math.prod(source[1:-1])
    return Usage(np.maximum(repeats, 1.0)[..., None, None], inputs)


def _identity_init(key: Array, source: Shape, target: Shape, std: float) -> tuple[()]:
    """No parameter."""
    if source != target:
        raise ValueError(f"an 'identity' synapse joins regions of one shape; got {source} and {target}")
    return ()


def _identity_see(E: tuple[()], z: Array, source: Shape) -> Array:
    """S = z; D = e: an error skip that mirrors a residual skip."""
    return z


def _identity_usage(source: Shape, target: Shape) -> Usage:
    return Usage(1.0, 0.0)


SYNAPSES: dict[str, Synapse] = {
    'channel': Synapse(_channel_init, _channel_see, _channel_usage, _one_tile),
    'conv_transpose': Synapse(_conv_transpose_init, _conv_transpose_see, _conv_transpose_usage),
    'conv_transpose_bf16': Synapse(_conv_transpose_init, _conv_transpose_bf16_see, _conv_transpose_usage),
    'dense': Synapse(_dense_init, _dense_see, _dense_usage),
    'grid': Synapse(_grid_init, _grid_see, _grid_usage, _cells),
    'identity': Synapse(_identity_init, _identity_see, _identity_usage),
    'token': Synapse(_token_init, _token_see, _token_usage),
}


def with_windows(kind: str, windows: Windows, source: Shape, target: Shape) -> str:
    """The kind with windows of its own, first:last:stride along each axis, such as 'conv_transpose[-1:1:2, -1:1:2]'.

    The kind itself, if these are the windows that it takes between such shapes anyway.
    """
    shrinks = all(n <= m for n, m in zip(source[1:-1], target[1:-1], strict=True))
    if shrinks and windows == windows_by_shape(source, target):
        return kind
    return f'{kind}[{", ".join(":".join(map(str, axis)) for axis in windows)}]'


@functools.cache
def synapse(kind: str) -> Synapse:
    """What a kind does: a name in `SYNAPSES`, for convolutions also one as `with_windows` writes it.

    Raises:
      ValueError: there is no such kind.
    """
    name, bracket, axes = kind.partition('[')
    if not bracket:
        return lookup(SYNAPSES, kind, 'kind of synapse')
    if not name.startswith('conv_transpose') or not re.fullmatch(r'(-?\d+:-?\d+:[1-9]\d*(, |\]$))+', axes):
        raise ValueError(f"only convolutions have windows, as in 'conv_transpose[-1:1:2, -1:1:2]'; got {kind!r}")
    windows = tuple(Window(*map(int, axis.split(':'))) for axis in axes[:-1].split(', '))
    require(all(axis.first <= axis.last for axis in windows), 'the first of a window', 'at most its last', kind)
    own = lookup(SYNAPSES, name, 'kind of synapse')
    init, see, usage = (functools.partial(part, windows=windows) for part in own[:3])
    return own._replace(init=init, see=see, usage=usage)


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
