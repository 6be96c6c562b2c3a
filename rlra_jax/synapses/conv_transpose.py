"""A transposed convolution between maps, with taps guessed from their sizes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.edges import Shape
from rlra_jax.nn.convolve import convolve
from rlra_jax.synapses.straight import StraightKind, Usage
from rlra_jax.types import Array


@dataclasses.dataclass(frozen=True)
class ConvTranspose(StraightKind):
    """d is the transposed convolution of e, for decoders. An error's own way back is a `Path`."""

    def init(self, key: Array, source: Shape, target: Shape, std: float) -> Array:
        """E `[taps..., C_source, C_target]`: tap by tap the transpose of a forward kernel `[taps..., C_in, C_out]`."""
        taps = [last - first + 1 for first, last, _ in _sliding(source, target)]
        return std * jax.random.normal(key, (*taps, source[-1], target[-1]))

    def see(self, E: Array, z: Array, source: Shape) -> Array:
        """A convolution: at p the sum over taps t of E_t z_{stride p + first + t}."""
        sliding = _sliding(source, z.shape)
        padding = [
            (-first, (narrow - 1) * stride + last + 1 - wide)
            for (first, last, stride), narrow, wide in zip(sliding, source[1:-1], z.shape[1:-1], strict=True)
        ]
        dtype = jnp.result_type(E, z)
        w = jnp.swapaxes(E, -1, -2).astype(dtype)
        return convolve(z.astype(dtype), w, [stride for _, _, stride in sliding], padding)

    def usage(self, source: Shape, target: Shape) -> Usage:
        """A tap is used wherever it stays inside the target."""
        repeats, sliding = np.ones(()), _sliding(source, target)
        for (first, last, stride), narrow, wide in zip(sliding, source[1:-1], target[1:-1], strict=True):
            reached = stride * np.arange(narrow) + np.arange(first, last + 1)[:, None]
            repeats = np.multiply.outer(repeats, ((reached >= 0) & (reached < wide)).sum(axis=1))
        inputs = target[-1] * repeats.size / math.prod(source[1:-1])
        return Usage(np.maximum(repeats, 1.0)[..., None, None], inputs)


def _sliding(source: Shape, target: Shape) -> list[tuple[int, int, int]]:
    """Along each axis (first, last, stride): the source's position p sees positions stride p + first to + last.

    Padding is what SAME gives for sizes that a SAME convolution explains, else VALID. The kernel has 3 taps, or as many
    as a stack of 3-tap convolutions sees that halve the map until the stride is reached, 2 stride - 1. Sizes do not
    tell SAME padding from `stride - 1` zeros in front, as in networks that pad both sides alike; a map of an even size
    is halved by either, one position apart. Then the taps are those of both.
    """
    if not 3 <= len(source) == len(target) or any(n > m for n, m in zip(source[1:-1], target[1:-1], strict=True)):
        raise ValueError(
            'a ConvTranspose synapse joins maps [B, positions..., channels], the target of as many or more '
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
