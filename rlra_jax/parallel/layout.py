"""Unlike trees as rows of one shape, so that unlike stages can share a sharding; and activities, to share a wire."""

import collections
import functools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlra_jax.parallel.dissect import Part
from rlra_jax.types import Array, PyTree

Rows = dict[str, Array]  # [stages, size], or a stage's own [size]


class Layout:
    """How the arrays of unlike stages lie in rows of one shape for all: what `[stages, size]` arrays can hold.

    Arrays of a size that every stage has get a row each, so that nothing need be copied to use them. The others lie
    one after the other in one row per dtype, wide enough for any stage.

    Args:
      trees: one for each kind of stage; only shapes and dtypes matter.
    """

    def __init__(self, trees: Sequence[PyTree]):
        self.trees = [jax.eval_shape(lambda tree=tree: tree) for tree in trees]
        counts = [collections.Counter((str(a.dtype), a.size) for a in jax.tree.leaves(tree)) for tree in trees]
        self._shared = functools.reduce(operator.and_, counts)
        self._width: dict[str, int] = {}  # of the common row of each dtype that needs one
        for name, stop in (place for tree in trees for place in self._places(tree)):
            if stop:
                self._width[name] = max(stop, self._width.get(name, 0))

    def _places(self, tree: PyTree) -> list[tuple[str, int]]:
        """For each leaf: (its own row, 0), or (the common row, where in it the leaf ends)."""
        left = self._shared.copy()
        ends: dict[str, int] = {}
        places: list[tuple[str, int]] = []
        for leaf in jax.tree.leaves(tree):
            name, size = str(leaf.dtype), leaf.size
            if left[name, size]:
                left[name, size] -= 1
                places.append((f'{name}[{size}] {left[name, size]}', 0))
            else:
                ends[name] = ends.get(name, 0) + size
                places.append((name, ends[name]))
        return places

    def empty(self) -> Rows:
        """The common rows, with zeros."""
        return {name: jnp.zeros(width, name) for name, width in self._width.items()}

    def flat(self, tree: PyTree, under: Rows) -> Rows:
        """A tree -> {row: [size]}; `under` has what common rows hold where the tree has nothing to put."""
        rows: Rows = {}
        common: dict[str, list[Array]] = {name: [] for name in self._width}
        for leaf, (name, stop) in zip(jax.tree.leaves(tree), self._places(tree), strict=True):
            if stop:
                common[name].append(leaf.reshape(-1))
            else:
                rows[name] = leaf.reshape(-1)
        for name, leaves in common.items():
            rows[name] = under[name]
            if leaves:  # written over it: to a row that was donated, that is all that is written
                rows[name] = jax.lax.dynamic_update_slice(under[name], jnp.concatenate(leaves), (0,))
        return rows

    def tree(self, index: int, rows: Rows) -> PyTree:
        """The inverse, for the tree of that index."""
        like = self.trees[index]
        leaves = []
        for leaf, (name, stop) in zip(jax.tree.leaves(like), self._places(like), strict=True):
            row = rows[name][stop - leaf.size : stop] if stop else rows[name]
            leaves.append(row.reshape(leaf.shape))
        return jax.tree.unflatten(jax.tree.structure(like), leaves)


def beside(arrays: Iterable[Array], width: int, dtype: Any) -> Array:
    """[B, ...] arrays side by side, [B, width]."""
    rows = jnp.concatenate([array.reshape(array.shape[0], -1).astype(dtype) for array in arrays], axis=1)
    return jnp.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def apart(rows: Array, parts: Sequence[Part]) -> list[Array]:
    """The inverse of `beside`: one array for each part, with the shape and dtype of its h."""
    arrays, start = [], 0
    for part in parts:
        size = math.prod(part.shape[1:])
        arrays.append(rows[:, start : start + size].reshape(-1, *part.shape[1:]).astype(part.dtype))
        start += size
    return arrays


def features(parts: Mapping[str, Part], names: Iterable[str]) -> int:
    """How many numbers an example has in those regions."""
    return sum(math.prod(parts[name].shape[1:]) for name in names)
