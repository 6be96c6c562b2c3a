"""Which inputs an output depends on, read off the traced program; nothing is computed."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.interpreters import partial_eval

from rlra_jax.types import PyTree


def dependence(function: Callable[..., Sequence[Any]], first: PyTree, *rest: PyTree) -> list[list[bool]]:
    """For each array that function(first, *rest) returns: whether it depends on each leaf of `first`, in tree order."""
    closed = jax.make_jaxpr(function)(first, *rest)
    leaves, outputs = len(jax.tree.leaves(first)), len(closed.out_avals)
    uses = []
    for index in range(outputs):
        _, used = partial_eval.dce_jaxpr(closed.jaxpr, [i == index for i in range(outputs)])
        uses.append(list(used[:leaves]))
    return uses
