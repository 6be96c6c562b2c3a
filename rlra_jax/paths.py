"""Trees by path: 'dense_1/kernel' names a leaf, however dictionaries, boxes and tuples are nested."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from rlra_jax.types import PyTree


def join(parts: Iterable[Any]) -> str:
    """The name of a path, which no other path has: within a part '~' is '~0' and '/' is '~1', as in a JSON pointer."""
    return '/'.join(str(part).replace('~', '~0').replace('/', '~1') for part in parts)


def split(path: str) -> list[str]:
    """The parts of a path."""
    return [part.replace('~1', '/').replace('~0', '~') for part in path.split('/')]


def readable(path: str) -> str:
    """A path as messages show it, its parts as they are: E's 'dense_1/kernel', not 'dense_1~1kernel'."""
    return '/'.join(split(path))


def flatten(tree: PyTree) -> dict[str, Any]:
    """A tree as {path: leaf}, in the tree's order."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {join(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in leaves}


def refill(tree: PyTree, flat: Mapping[str, Any]) -> PyTree:
    """The tree with the leaves of {path: leaf}."""
    return jax.tree.unflatten(jax.tree.structure(tree), [flat[path] for path in flatten(tree)])
