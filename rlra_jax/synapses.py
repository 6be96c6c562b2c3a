"""Error synapses: how an error travels over an edge.

A kind says how E is drawn, how it transmits, and how often each of its parameters is used. Since transmit is linear in
E and in e, its two transposes (`correlate`, `transmit_back`) serve every rule that learns E, so a new kind needs
nothing else: one entry in `SYNAPSES`.

Shapes include the batch axis: a region of units is `[B, n]`, a map `[B, positions..., channels]`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlra_jax.types import Array, Edge, PyTree

Shape = tuple[int, ...]


class Usage(NamedTuple):
    """How a synapse uses its parameters on one example; the rule `mirror` takes its step size from it."""

    repeats: float | np.ndarray  # broadcasts to E: connections a parameter serves, each with its squared coefficient
    inputs: float  # parameters per source channel, over how many independent views of them an example gives


class Synapse(NamedTuple):
    """A kind of error synapse. Functions of shapes raise ValueError where the kind cannot join them."""

    init: Callable[[Array, Shape, Shape, float], PyTree]  # (key, source shape, target shape, std) -> E
    transmit: Callable[[PyTree, Array, Shape], Array]  # (E, e [B, ...source], target shape) -> d [B, ...target]
    usage: Callable[[Shape, Shape], Usage]  # (source shape, target shape)


def _dense_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[n_source, n_target]`, entries N(0, std^2), float32 or wider."""
    return std * jax.random.normal(key, (math.prod(source[1:]), math.prod(target[1:])))


def _dense_transmit(E: Array, e: Array, target: Shape) -> Array:
    """D = e E on flattened regions."""
    return (e.reshape(e.shape[0], -1) @ E).reshape(target)


def _dense_usage(source: Shape, target: Shape) -> Usage:
    return Usage(1.0, math.prod(target[1:]))


def _channel_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[C_source, C_target]`."""
    return std * jax.random.normal(key, (source[-1], target[-1]))


def _channel_transmit(E: Array, e: Array, target: Shape) -> Array:
    """d_p = mean over positions (e) E at every position p of the target."""
    d = e.mean(axis=tuple(range(1, e.ndim - 1))) @ E
    return jnp.broadcast_to(d.reshape(target[0], *(1 for _ in target[1:-1]), target[-1]), target)


def _channel_usage(source: Shape, target: Shape) -> Usage:
    """The mean shares each connection out over the source's positions, in one view: they all predict the same."""
    return Usage(math.prod(target[1:-1]) / math.prod(source[1:-1]), target[-1])


def _token_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[C_source, C_target]`."""
    if source[1:-1] != target[1:-1]:
        raise ValueError(f"a 'token' synapse joins regions of the same positions; got {source} and {target}")
    return _channel_init(key, source, target, std)


def _token_transmit(E: Array, e: Array, target: Shape) -> Array:
    """d_p = e_p E at each position p."""
    return e @ E


def _token_usage(source: Shape, target: Shape) -> Usage:
    positions = math.prod(source[1:-1])
    return Usage(positions, target[-1] / positions)


class _Taps(NamedTuple):
    """A convolution along one axis, from `wide` positions (the edge's target) to `narrow` ones (its source)."""

    kernel: int
    stride: int
    low: int  # padding in front; what is missing behind follows from the sizes


def _taps(source: Shape, target: Shape) -> list[_Taps]:
    """What SAME padding gives for sizes that a SAME convolution explains, else VALID.

    The kernel has 3 taps, or as many as a stack of 3-tap convolutions sees that halve the map until the stride is
    reached, 2 stride - 1.
    """
    if len(source) != len(target) or len(source) < 3 or any(n > m for n, m in zip(source, target[:-1], strict=False)):
        raise ValueError(
            "a 'conv_transpose' synapse leads from a map [B, positions..., channels] to one of as many or more "
            f'positions along each axis; got {source} and {target}'
        )
    taps = []
    for narrow, wide in zip(source[1:-1], target[1:-1], strict=True):
        stride = math.ceil(wide / narrow)
        if math.ceil(wide / stride) != narrow:
            stride = wide // narrow
        kernel = max(3, 2 * stride - 1)
        taps.append(_Taps(kernel, stride, max((narrow - 1) * stride + kernel - wide, 0) // 2))
    return taps


def _conv_transpose_init(key: Array, source: Shape, target: Shape, std: float) -> Array:
    """E `[taps..., C_source, C_target]`: tap by tap the transpose of the forward kernel `[taps..., C_in, C_out]`."""
    return std * jax.random.normal(key, (*(axis.kernel for axis in _taps(source, target)), source[-1], target[-1]))


def _conv_transpose_transmit(E: Array, e: Array, target: Shape) -> Array:
    """d_{stride p + t - low} = sum over positions p and taps t of e_p E_t: a transposed convolution."""
    dtype = jnp.result_type(E, e)
    axes, taps = tuple(range(1, e.ndim - 1)), _taps(e.shape, target)
    padding = [
        (tap.kernel - 1 - tap.low, wide - 1 - (narrow - 1) * tap.stride + tap.low)
        for tap, narrow, wide in zip(taps, e.shape[1:-1], target[1:-1], strict=True)
    ]
    activity, kernel = (0, e.ndim - 1, *axes), (e.ndim - 1, e.ndim - 2, *(axis - 1 for axis in axes))
    return lax.conv_general_dilated(
        e.astype(dtype),
        jnp.flip(E, [axis - 1 for axis in axes]).astype(dtype),
        window_strides=[1 for _ in axes],
        padding=padding,
        lhs_dilation=[tap.stride for tap in taps],
        dimension_numbers=lax.ConvDimensionNumbers(activity, kernel, activity),
    )


def _conv_transpose_usage(source: Shape, target: Shape) -> Usage:
    """A tap is used wherever it stays inside the target."""
    repeats, taps = np.ones(()), _taps(source, target)
    for tap, narrow, wide in zip(taps, source[1:-1], target[1:-1], strict=True):
        reached = tap.stride * np.arange(narrow) + np.arange(tap.kernel)[:, None] - tap.low
        repeats = np.multiply.outer(repeats, ((reached >= 0) & (reached < wide)).sum(axis=1))
    inputs = target[-1] * math.prod(tap.kernel for tap in taps) / math.prod(source[1:-1])
    return Usage(np.maximum(repeats, 1.0)[..., None, None], inputs)


def _identity_init(key: Array, source: Shape, target: Shape, std: float) -> tuple[()]:
    """No parameter."""
    if source != target:
        raise ValueError(f"an 'identity' synapse joins regions of one shape; got {source} and {target}")
    return ()


def _identity_transmit(E: tuple[()], e: Array, target: Shape) -> Array:
    """D = e: an error skip that mirrors a residual skip."""
    return e


def _identity_usage(source: Shape, target: Shape) -> Usage:
    return Usage(1.0, 0.0)


SYNAPSES: dict[str, Synapse] = {
    'channel': Synapse(_channel_init, _channel_transmit, _channel_usage),
    'conv_transpose': Synapse(_conv_transpose_init, _conv_transpose_transmit, _conv_transpose_usage),
    'dense': Synapse(_dense_init, _dense_transmit, _dense_usage),
    'identity': Synapse(_identity_init, _identity_transmit, _identity_usage),
    'token': Synapse(_token_init, _token_transmit, _token_usage),
}


def draw(edge: Edge, key: Array, source: Shape, target: Shape, std: float) -> PyTree:
    """A new synapse for an edge, entries N(0, std^2).

    Raises:
      ValueError: naming the edge, if its kind cannot join regions of these shapes.
    """
    try:
        return SYNAPSES[edge.kind].init(key, source, target, std)
    except ValueError as error:
        raise ValueError(f'edge {edge.name}: {error}') from error


def count(kind: str, source: Shape, target: Shape) -> int:
    """Parameters of a synapse; ValueError if the kind cannot join regions of these shapes."""
    E = jax.eval_shape(lambda key: SYNAPSES[kind].init(key, source, target, 1.0), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(E))


def transmit(kind: str, E: PyTree, e: Array, target: Shape) -> Array:
    """D = T(E, e): the displacement `[B, ...target]` that an error e `[B, ...source]` causes over the synapse E."""
    return SYNAPSES[kind].transmit(E, e, target)


def transmit_back(kind: str, E: PyTree, target: Array, source: Shape) -> Array:
    """The transpose of T in e: a signal at the edge's target `[B, ...target]` seen from its source `[B, ...source]`."""
    # T is linear, so the point does not matter. Inside shard_map it must vary over the devices that the target varies
    # over, or vjp would sum over them; hence one of the target's entries.
    point = jnp.broadcast_to(target.reshape(-1)[0], source)
    d, pull = jax.vjp(lambda e: transmit(kind, E, e, target.shape), point)
    (signal,) = pull(target.astype(d.dtype))
    return signal


def correlate(kind: str, E: PyTree, source: Array, target: Array) -> PyTree:
    """The batch mean of source^T target, seen through the synapse: the transpose of T in E, in E's tree.

    Args:
      kind: a name in `SYNAPSES`.
      E: the synapse; only its shape and dtype matter.
      source: a signal `[B, ...]` at the edge's source (an error, or the response to noise).
      target: a signal `[B, ...]` at its target (an activity, a displacement, or noise).
    """
    d, pull = jax.vjp(lambda E: transmit(kind, E, source, target.shape), E)
    (total,) = pull(target.astype(d.dtype))
    return jax.tree.map(lambda g: g / source.shape[0], total)
