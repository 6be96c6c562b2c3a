"""Axes of devices: those that a model names, and those of the mesh that a batch lies on."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rlra_jax.types import Array, Batch, State, Weights


def with_axes(trace: Callable[..., Any], function: Callable[..., Any], *args: Any) -> Any:
    """trace(function, *args), each axis that nobody has bound being that of one device.

    Models name axes, as BatchNorm(axis_name='batch') does, that exist under shard_map, pmap or vmap; this is for what
    is asked of a model before. In the trace nothing of such an axis is left.

    Args:
      trace: such as jax.eval_shape.
      function: of arrays, to a tree of arrays that do not depend on which device has them.
      *args: its arguments.
    """
    bound: set[str] = set()
    while True:
        try:
            return trace(function, *args)
        except NameError as error:
            unbound = re.search(r'unbound axis name: (.+?)(?:\. |$)', str(error))
            if unbound is None or unbound[1] in bound:
                raise
            bound.add(unbound[1])
            function = jax.vmap(function, in_axes=None, out_axes=None, axis_name=unbound[1], axis_size=1)


def make_jaxpr(function: Callable[..., Any], *args: Any) -> core.ClosedJaxpr:
    """`jax.make_jaxpr` with axes."""
    return with_axes(lambda function, *args: jax.make_jaxpr(function)(*args), function, *args)


def beside_batch(update: Callable[[Weights, State, Batch, Array], Any]) -> Callable[..., Any]:
    """The update, for a batch on a mesh of explicit axes: what lies on no mesh is copied to all devices of that one.

    Along other axes JAX does so by itself.
    """

    @functools.wraps(update)
    def run(weights: Weights, state: State, batch: Batch, key: Array) -> Any:
        meshes = (_mesh(leaf) for leaf in jax.tree.leaves(batch))
        mesh = next((mesh for mesh in meshes if mesh is not None and AxisType.Explicit in mesh.axis_types), None)
        if mesh is not None:
            place = NamedSharding(mesh, PartitionSpec())
            weights, state = jax.tree.map(
                lambda leaf: leaf if _mesh(leaf) is not None else jax.device_put(leaf, place), (weights, state)
            )
        return update(weights, state, batch, key)

    return run


def _mesh(leaf: Any) -> Any:
    """The mesh that an array lies on, or None."""
    typed = jax.typeof(leaf) if isinstance(leaf, jax.core.Tracer) else leaf
    mesh = getattr(getattr(typed, 'sharding', None), 'mesh', None)
    return mesh if mesh is not None and mesh.axis_names else None
