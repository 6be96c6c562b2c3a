"""Names by path: 'dense_1/kernel' is a leaf, however dictionaries, boxes and tuples are nested; 'act#2' a call."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax.core import meta

from rlra_jax.types import PyTree


def join(parts: Iterable[Any]) -> str:
    """The name of a path, which no other path has.

    Within a part '~' is '~0' and '/' is '~1', as in a JSON pointer; '#', which numbers calls, is '~2'.
    """
    return '/'.join(str(part).replace('~', '~0').replace('/', '~1').replace('#', '~2') for part in parts)


def join_call(path: str, number: int) -> str:
    """The name of one of several calls, from 0, of what has that path."""
    return f'{path}#{number}'


def split_call(name: str) -> tuple[str, int | None]:
    """(the path, the number of the call); None where a name has no number."""
    path, numbered, number = name.partition('#')
    return path, int(number) if numbered else None


def split(path: str) -> list[str]:
    """The parts of a path."""
    return [part.replace('~2', '#').replace('~1', '/').replace('~0', '~') for part in path.split('/')]


def readable(path: str) -> str:
    """A path as messages show it, its parts as they are: E's 'dense_1/kernel', not 'dense_1~1kernel'."""
    return '/'.join(split(path))


def flatten(tree: PyTree) -> dict[str, Any]:
    """A tree as {path: leaf}, in the tree's order; boxes are no part of a path."""
    leaves, _ = jax.tree.flatten_with_path(unboxed(tree))
    return {join(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in leaves}


def refill(tree: PyTree, flat: Mapping[str, Any]) -> PyTree:
    """The tree, boxes included, with the leaves of {path: leaf}."""
    return jax.tree.unflatten(jax.tree.structure(tree), [flat[path] for path in flatten(tree)])


def unboxed(tree: PyTree) -> PyTree:
    """The tree without the boxes of `nn.with_partitioning`; `meta.unbox` would also move what is in them."""
    return meta.map_axis_meta(lambda box: box.value if isinstance(box, meta.Partitioned) else box.unbox(), tree)
