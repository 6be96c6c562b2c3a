"""Trees by path: 'dense_1/kernel' names a leaf, however dictionaries, boxes and tuples are nested."""

from collections.abc import Mapping
from typing import Any

import jax

from rlra_jax.types import PyTree


def flatten(tree: PyTree) -> dict[str, Any]:
    """A tree as {path: leaf}, in the tree's order."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def refill(tree: PyTree, flat: Mapping[str, Any]) -> PyTree:
    """The tree with the leaves of {path: leaf}."""
    return jax.tree.unflatten(jax.tree.structure(tree), [flat[path] for path in flatten(tree)])
