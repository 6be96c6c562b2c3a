"""Unlike stages in one program: every device does what its own kind of stage does, in the memory that it has."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rlra_jax.parallel.blocks import Block
from rlra_jax.parallel.layout import Rows
from rlra_jax.types import Array, PyTree


class Kinds:
    """The kinds of stages, and which of them this device's is.

    Args:
      blocks: a stage of each kind.
      kind: int32 []; differs between devices.
    """

    def __init__(self, blocks: Sequence[Block], kind: Array):
        self.blocks, self._kind = blocks, kind

    def switch(self, method: Callable[..., Any], *operands: Any) -> Any:
        """method(block, number of its kind, *operands) for this device's kind; what it returns is alike for all."""

        def branch(k: int, block: Block) -> Callable[..., Any]:
            return lambda *operands: method(block, k, *operands)

        branches = [branch(k, block) for k, block in enumerate(self.blocks)]
        return branches[0](*operands) if len(branches) == 1 else lax.switch(self._kind, branches, *operands)

    def in_place(self, method: Callable[..., Rows], own: Rows, *operands: Any) -> Rows:
        """method(block, number of its kind, own, *operands) for this device's kind, written over the stage's own rows.

        XLA copies what leaves a branch into the donated state, but not what leaves a loop: hence loops of one turn or
        none. What does not depend on the turn it would move out of them, for every device to do the work of all kinds;
        so the operands seem to.
        """
        for k, block in enumerate(self.blocks):

            def turn(i: Array, own: Rows, k: int = k, block: Block = block) -> Rows:
                _, known = lax.optimization_barrier((i, operands))
                return jax.tree.map(_varying, method(block, k, own, *known), own)

            own = lax.fori_loop(0, (self._kind == k).astype(jnp.int32), turn, own)
        return own


def _varying(new: Array, old: Array) -> Array:
    """New, but of a type that varies over the devices that old varies over, as constants of an optimizer do not."""
    return jnp.where(True, new, old)


def apart_in_time(own: Rows, grads: PyTree) -> tuple[Rows, PyTree]:
    """The same, but all that gradients read of the rows comes before a row is written.

    Else new rows would be written beside the old ones, and copied; as they would if the gradients were not flat here.
    """

    def barrier(leaf: Array) -> Array:
        return lax.optimization_barrier(leaf.reshape(-1)).reshape(leaf.shape)

    return jax.tree.map(lax.optimization_barrier, own), jax.tree.map(barrier, grads)
