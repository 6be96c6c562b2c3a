"""The regions of a model: what ends at each Site, which feeds which, and by which parameters."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from rlra_jax.axes import with_axes
from rlra_jax.capture import forward
from rlra_jax.frontend import variable_shapes
from rlra_jax.path import met
from rlra_jax.programs import cut_model
from rlra_jax.types import Array, Model, Region


def sites(model: Model, x: Array, *, train_kwargs: Mapping[str, Any] | None = None) -> tuple[Region, ...]:
    """The model's regions in forward order, the output last, and what feeds each; nothing is computed.

    Args:
      model: a linen or nnx module whose activations are Sites.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      train_kwargs: further keyword arguments of the model's call.

    Raises:
      ValueError: as `capture.forward`.
    """
    variables, key = variable_shapes(model, x, train_kwargs), jax.random.key(0)
    like: Any = jax.ShapeDtypeStruct(x.shape, x.dtype)  # wherever it lies
    cut = cut_model(model, variables, like, key, train_kwargs=train_kwargs)
    if any(len(x) in h.shape[1:] for h in cut.h.values()):  # is the first axis of that length the batch's?
        other = jax.ShapeDtypeStruct((len(x) + 1, *x.shape[1:]), x.dtype)
        look = functools.partial(forward, model, train_kwargs=train_kwargs)
        with_axes(jax.eval_shape, lambda v, x, k: look(v, x, rngs=k).h, variables, other, key)
    order = list(cut.h)
    regions = []
    for name, program in cut.programs().items():
        reached, weights, size = met(program, cut.values)
        inputs = tuple(other for other in order if other in reached)
        regions.append(Region(name, cut.h[name].shape, cut.h[name].dtype, inputs, weights, size))
    return tuple(regions)
