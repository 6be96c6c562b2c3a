"""The one place that chooses by the framework a model is written in."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import flax.linen
import flax.nnx
import jax

from rlra_jax.model import linen, nnx
from rlra_jax.model.axes import with_axes
from rlra_jax.types import Array, Model, Variables
from rlra_jax.validate import check_x, require


def frontend(model: Model) -> ModuleType:
    """The module whose `init`, `apply` and `capture` understand the model.

    Raises:
      ValueError: it is neither a flax.linen nor a flax.nnx module.
    """
    if isinstance(model, flax.linen.Module):
        return linen
    if isinstance(model, flax.nnx.Module):
        return nnx
    raise ValueError(f'a model is an instance of flax.linen.Module or flax.nnx.Module; got {model!r}')


def variable_shapes(model: Model, x: Array, train_kwargs: Mapping[str, Any] | None = None) -> Variables:
    """The model's variables as jax.ShapeDtypeStructs, for a batch like x; nothing is computed.

    Raises:
      ValueError: the model is in no known framework, x is no floating array, or train_kwargs is no mapping.
    """
    check_x(x)
    require(
        isinstance(train_kwargs, Mapping | None), 'train_kwargs', "a mapping, such as {'train': True}", train_kwargs
    )
    init = frontend(model).init
    key = jax.random.key(0)
    return dict(with_axes(jax.eval_shape, lambda key, x: init(model, key, x, train_kwargs or {}), key, x))
