"""Unlike stages in one program: every device does what its own kind of stage does, in the memory that it has."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jax import lax

from rlra_jax.compiler import in_place
from rlra_jax.parallel.blocks import Block
from rlra_jax.parallel.layout import Rows
from rlra_jax.types import Array


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
        """method(block, number of its kind, own, *operands) for this device's kind, over the stage's own rows."""
        for k, block in enumerate(self.blocks):
            own = in_place(self._kind == k, functools.partial(method, block, k), own, *operands)
        return own
