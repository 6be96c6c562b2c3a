"""Checks of what users hand over. Errors name what was expected and what came."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlra_jax.types import Array, GivenBatch, Variables


def require(condition: Any, name: str, expected: str, value: Any) -> None:
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(f'{name} must be {expected}; got {value!r}')


def require_number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises ValueError unless value is a finite number from low (or above low) to high; True is none."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    fits = number and math.isfinite(value) and low <= value <= high
    limit = f'above {low}' if above else f'of at least {low}' if high == math.inf else f'from {low} to {high}'
    require(fits and not (above and value == low), name, f'a number {limit}', value)


def require_count(name: str, value: Any, low: int = 1) -> None:
    """Raises ValueError unless value is a whole number of at least low."""
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= low
    require(fits, name, f'a whole number of at least {low}', value)


def require_counts(name: str, values: Any) -> None:
    """Raises ValueError unless values is a sequence of whole numbers of at least 1."""
    fits = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str)
    require(fits, name, 'a sequence of whole numbers', values)
    for value in values:
        require_count(f'each of {name}', value)


def require_flag(name: str, value: Any) -> None:
    """Raises ValueError unless value is True or False; 'False' would count as true."""
    require(isinstance(value, bool | np.bool_), name, 'True or False', value)


def require_phi(name: str, value: Any) -> None:
    """Raises ValueError unless value is a function, and no linen module."""
    if isinstance(value, nn.Module):
        raise ValueError(
            f'{name} must be a function; got the module {type(value).__name__}, whose parameters no region would hold: '
            'apply it before a Site(lambda h: h)'
        )
    require(callable(value), name, "a function, such as jnp.tanh or ACTIVATIONS['tanh']", value)


def require_optimizer(name: str, value: Any) -> None:
    """Raises ValueError unless value is an optax optimizer."""
    expected = 'an optax.GradientTransformation'
    if isinstance(value, optax.MultiSteps):
        expected += ', as its gradient_transformation() returns'
    require(isinstance(value, optax.GradientTransformation), name, expected, value)


def require_paths(name: str, value: Any) -> None:
    """Raises ValueError unless value is a collection of strings; one string is none, though it could be walked."""
    fits = isinstance(value, Iterable) and not isinstance(value, str) and all(isinstance(v, str) for v in value)
    require(fits, name, 'a collection of parameter paths', value)


class UnknownNameError(ValueError, KeyError):
    """A table has no entry of that name."""

    __str__ = Exception.__str__  # KeyError's own would put quotes around the sentence


class Table(dict[str, Any]):
    """A dictionary that says what it has where a name is unknown.

    Args:
      what: what an entry is, such as 'learner'.
      entries: {name: entry}.
    """

    def __init__(self, what: str, entries: Mapping[str, Any]):
        super().__init__(entries)
        self.what = what

    def __missing__(self, name: Any) -> Any:
        raise _unknown(self, name, self.what)


def lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    """table[name], or a ValueError that lists what there is, nearest names first."""
    if not isinstance(name, str) or name not in table:
        raise _unknown(table, name, what)
    return table[name]


def _unknown(table: Mapping[str, Any], name: Any, what: str) -> UnknownNameError:
    near = difflib.get_close_matches(str(name), table)
    known = [*near, *sorted(set(table) - set(near))]
    return UnknownNameError(f'unknown {what} {name!r}; known: {", ".join(known)}')


def per_region(name: str, value: float | Mapping[str, float], regions: Iterable[str]) -> dict[str, float]:
    """One number for each region, from a number or from {region: number} with 1 for the others."""
    regions = list(regions)
    if not isinstance(value, Mapping):
        return dict.fromkeys(regions, value)
    unknown = sorted(set(value) - set(regions))
    if unknown:
        raise ValueError(f'{name} names unknown regions {unknown}; the regions are {regions}')
    return {region: value.get(region, 1.0) for region in regions}


def check_variables(variables: Variables) -> None:
    """Raises ValueError unless variables is {'params': ..., other collections}."""
    if not isinstance(variables, Mapping) or 'params' not in variables:
        came = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise ValueError(f"variables must be what the model's init returned, {{'params': ..., ...}}; got {came}")


def check_key(key: Array) -> None:
    """Raises ValueError unless key is a single key of jax.random, of the new kind or the old."""
    came = jax.tree.map(jnp.shape, key) if isinstance(key, jax.Array) else key
    typed = hasattr(key, 'dtype') and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    old = hasattr(key, 'dtype') and key.dtype == jnp.uint32 and key.ndim == 1
    require((typed and not key.shape) or old, 'key', 'a single key, as from jax.random.key(0)', came)


def check_batch(batch: GivenBatch, like: GivenBatch | None = None) -> None:
    """Raises ValueError unless batch is what a model can be called on: see `check_arrays`.

    Args:
      batch: of at least one example; arrays or jax.ShapeDtypeStructs. Its 'image', if it has one, is floating.
      like: a batch of the same names, if they are known.
    """
    check_arrays(batch)
    if like is not None and set(batch) != set(like):
        raise ValueError(
            f'a batch holds {sorted(like)} here, as the example that the model was bound to; got {sorted(batch)}'
        )
    image = batch.get('image')
    if image is not None and not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"batch['image'] must be floating; got {image.dtype} {image.shape}: scale images, for instance by 1/255, "
            'and give tokens another name'
        )


def check_arrays(batch: GivenBatch) -> None:
    """Raises ValueError unless batch is a mapping of arrays that all have the examples along their first axis."""
    if not isinstance(batch, Mapping) or not batch:
        came = type(batch).__name__ if not isinstance(batch, Mapping) else 'an empty one'
        raise ValueError(f"a batch is a mapping of arrays [B, ...], such as {{'image': ..., 'label': ...}}; got {came}")
    for name, value in batch.items():
        if not hasattr(value, 'dtype') or not hasattr(value, 'shape') or not value.shape:
            came = f'shape {value.shape}' if hasattr(value, 'shape') else type(value).__name__
            raise ValueError(f'batch[{name!r}] must be an array [B, ...]; got {came}')
        held = any(jnp.issubdtype(value.dtype, kind) for kind in (np.number, np.bool_, jax.dtypes.prng_key))
        require(held, f'batch[{name!r}]', 'an array of numbers', value.dtype)
        require(math.prod(value.shape), f'batch[{name!r}]', 'of at least one example', value.shape)
    sizes = {name: value.shape[0] for name, value in batch.items()}
    require(len(set(sizes.values())) == 1, 'the first axes of a batch', 'of one length, the examples', sizes)
