"""Checks that an optimizer can be applied block by block."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from rlra_jax.model.dependence import Trace
from rlra_jax.parallel.dissect import Flat
from rlra_jax.types import PyTree


def check_blockwise(
    optimizer: optax.GradientTransformation,
    leaves: Flat,
    whole: Callable[[Mapping[str, Any]], PyTree],
    alone: Callable[[Mapping[str, Any]], PyTree],
    runs: Sequence[Sequence[Sequence[str]]],
) -> None:
    """Traces what each update is computed from, and how: of the whole model, and of a block by itself.

    Args:
      optimizer: any optax transformation.
      leaves: {name: array or jax.ShapeDtypeStruct} of the whole model; or (), as an identity synapse is.
      whole: from what has these names to the tree that the optimizer gets in a plain step.
      alone: from what has some of them to the tree that it gets of a block.
      runs: the names of each block; blocks of a run go by the names of its first.

    Raises:
      ValueError: an update depends on gradients of other blocks, as with clipping by the global norm; or another one
        is made of a block alone, as where a mask goes by the paths of the whole tree, or noise by its number of leaves.
    """
    empty = {name: leaf for name, leaf in leaves.items() if not jax.tree.leaves(leaf)}
    own = {name: leaf for name, leaf in leaves.items() if name not in empty}
    try:
        needs, programs = _updates(optimizer, own, lambda flat: whole({**empty, **flat}))
    except TypeError as error:  # it takes more than gradients and parameters
        raise ValueError(f'the optimizer gets each block by itself, and no loss: {error}') from error
    for run in runs:
        programs_alone: dict[str, str] = {}
        for block in run:
            for first, name in ((first, name) for first, name in zip(run[0], block, strict=True) if name in needs):
                foreign = [other for other in needs[name] if other not in block]
                if foreign:
                    more = f' and {len(foreign) - 3} more' if foreign[3:] else ''
                    raise ValueError(
                        f'the optimizer must update each block from its own gradients, but its update of '
                        f'{name!r} also needs those of {foreign[:3]}{more}, as clipping by a global norm does'
                    )
                own_leaves = {other: leaves[other] for other in run[0] if other in needs}
                programs_alone = programs_alone or _alone(optimizer, own_leaves, alone)
                if programs[name] != programs_alone[first]:
                    raise ValueError(
                        f'the optimizer gets each block by itself, and then does something else to '
                        f'{name!r} than in the whole tree: masks, labels and noise must not go by paths or by the '
                        'number of leaves; by their shapes they may'
                    )


def _alone(
    optimizer: optax.GradientTransformation, leaves: Flat, tree: Callable[[Mapping[str, Any]], PyTree]
) -> dict[str, str]:
    try:
        return _updates(optimizer, leaves, tree)[1]
    except Exception as error:
        raise ValueError(
            f'the optimizer gets each block by itself, and cannot be applied to {sorted(leaves)} alone, '
            f'as where a mask has the whole tree: {error}'
        ) from error


def _updates(
    optimizer: optax.GradientTransformation, leaves: Flat, tree: Callable[[Mapping[str, Any]], PyTree]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """For each name: whose gradients its second update needs, by the state too, and the program that makes it."""
    names = list(leaves)

    def update(grads: Flat, params: Flat) -> list[jax.Array]:
        own = tree(params)
        _, state = optimizer.update(tree(grads), optimizer.init(own), own)
        updates, _ = optimizer.update(tree(grads), state, own)
        where = jax.tree.leaves(tree({name: i for i, name in enumerate(names)}))
        return [leaf for _, leaf in sorted(zip(where, jax.tree.leaves(updates), strict=True), key=lambda pair: pair[0])]

    ordered = [leaves[name] for name in names]
    closed = jax.make_jaxpr(lambda *flat: update(*(dict(zip(names, part, strict=True)) for part in flat)))(
        ordered, ordered
    )
    trace = Trace(closed.jaxpr)
    parts = {name: trace.part([i]) for i, name in enumerate(names)}
    needs = {name: [names[i] for i in used if i < len(names)] for name, (_, used) in parts.items()}
    return needs, {name: str(program) for name, (program, _) in parts.items()}
