"""The one place that chooses by the framework a model is written in."""

from types import ModuleType

import flax.linen
import flax.nnx

from rlra_jax.model import linen, nnx
from rlra_jax.types import Model


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
