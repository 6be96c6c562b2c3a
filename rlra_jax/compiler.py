"""What a compiler or a type of JAX must be told, and no reader would guess: each trick once, by name."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rlra_jax.types import Array, PyTree


def varying(tree: PyTree, axes: str | tuple[str, ...]) -> PyTree:
    """Marks what is alike on all devices along these axes as each device's own.

    Inside shard_map, differentiating in what is alike sums the gradient over the devices.
    """
    return jax.tree.map(lambda leaf: lax.pcast(leaf, axes, to='varying'), tree)


def varying_like(leaf: Array, other: Array) -> Array:
    """The leaf, of a type that varies over the devices that the other varies over, if it did not.

    Constants do not, and shard_map takes none of them as a cotangent, or out of a loop, where something varying was.
    """
    return jnp.where(True, leaf, other)


def computed_anew(tree: PyTree) -> PyTree:
    """The same, but what is computed from it is computed from it alone.

    Else XLA sees that a second pass computes what a first one has, and keeps the first one's results till then.
    """
    return lax.optimization_barrier(tree)


def computed_once(count: Array, tree: PyTree) -> PyTree:
    """The same, but on a CPU it is computed before what reads it.

    Else XLA computes it there anew inside each of its readers, in the reader's order.

    Args:
      count: [] of at least 0, which the compiler does not know, and alike for all of a vmap: else nothing is gained.
      tree: arrays.
    """
    if jax.default_backend() != 'cpu':
        return tree
    return lax.cond(count < 0, lambda own: jax.tree.map(jnp.zeros_like, own), lambda own: own, tree)


def reads_before_writes(square: Array, write: Callable[[], PyTree], read: PyTree) -> PyTree:
    """Writes over what has been read, in place: all that comes before the branch reads, all in it writes.

    Args:
      square: [] of at least 0, which the compiler does not know; made of all that is read.
      write: () -> what the branch returns.
      read: what it would return were square below 0.
    """
    return lax.cond(square < 0, lambda: read, write)


def in_place(chosen: Array, write: Callable[..., PyTree], own: PyTree, *operands: Any) -> PyTree:
    """write(own, *operands) where chosen, else own; written over own.

    XLA copies what leaves a switch of several branches into a donated buffer, but not what leaves one that only may be
    written over.
    """
    return lax.cond(chosen, lambda: jax.tree.map(varying_like, write(own, *operands), own), lambda: own)


def apart_in_time(own: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
    """The same, but all that gradients read of own comes before a part of own is written.

    Else new rows would be written beside the old ones, and copied; as they would if the gradients were not flat here.
    """

    def barrier(leaf: Array) -> Array:
        return lax.optimization_barrier(leaf.reshape(-1)).reshape(leaf.shape)

    return jax.tree.map(lax.optimization_barrier, own), jax.tree.map(barrier, grads)
