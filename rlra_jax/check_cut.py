"""Is the model cut where it should be? No global backprop in silence."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlra_jax.capture import forward
from rlra_jax.dependence import dependence
from rlra_jax.frontend import variable_shapes
from rlra_jax.paths import flatten
from rlra_jax.types import Array, Model, Variables
from rlra_jax.validate import check_variables


def check_cut(
    model: Model,
    x: Array,
    *,
    variables: Variables | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    allow: Collection[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Traces which regions each parameter reaches without passing a Site, and raises unless it is exactly one.

    A path that bypasses every Site (a transformer's residual stream) carries a parameter's influence into regions
    above its own, where backprop would train it. Put a Site on the stream; the identity is a valid phi.

    Args:
      model: a linen or nnx module whose activations are Sites.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      variables: the model's, or None to trace its initialisation here.
      train_kwargs: further keyword arguments of the model's call.
      allow: parameter paths (or their first parts) that are meant to be trained by several regions at once.

    Returns:
      Parameter path, such as 'dense_1/kernel' -> the regions it reaches, in forward order.

    Raises:
      ValueError: naming the parameters and the regions they reach.
    """
    if variables is None:
        variables = variable_shapes(model, x, train_kwargs)
    check_variables(variables)
    paths = list(flatten(variables['params']))
    unknown = [name for name in allow if not any(_within(path, name) for path in paths)]
    if unknown:
        raise ValueError(f'`allow` names no parameter by {unknown}; the parameters are {paths}')
    reached: dict[str, list[str]] = {path: [] for path in paths}
    for region, used in _dependencies(model, variables, x, train_kwargs).items():
        for leaf in used:
            reached[paths[leaf]].append(region)

    wrong = {
        path: regions
        for path, regions in reached.items()
        if len(regions) != 1 and not any(_within(path, name) for name in allow)
    }
    if wrong:
        listing = '\n'.join(f'  {path}: {regions or "no region"}' for path, regions in wrong.items())
        raise ValueError(
            'each parameter must reach exactly one region before the first cut, but these do not:\n'
            f'{listing}\nPut a Site (identity phi allowed) on the path that bypasses the others, drop parameters '
            'that are not used or that a phi holds, or list in `allow` those that several regions are meant to train.'
        )
    return {path: tuple(regions) for path, regions in reached.items()}


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f'{name}/')


def _dependencies(
    model: Model, variables: Variables, x: Array, train_kwargs: Mapping[str, Any] | None
) -> dict[str, list[int]]:
    """Region -> the parameter leaves that its h depends on when every Site emits zeros."""
    order: list[str] = []

    def heads(params, rest, x, key):
        seen = forward(
            model,
            {'params': params, **rest},
            x,
            rngs=key,
            train_kwargs=train_kwargs,
            leave=lambda name, z: jnp.zeros(z.shape, z.dtype),
        )
        order.extend(seen.h)
        return list(seen.h.values())

    rest = {name: value for name, value in variables.items() if name != 'params'}
    uses = dependence(heads, variables['params'], rest, x, jax.random.key(0))
    return dict(zip(order, uses, strict=True))
