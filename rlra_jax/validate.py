"""Checks of what users hand over. Errors name what was expected and what came."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlra_jax.types import Array, Batch, Variables


def require(condition: Any, name: str, expected: str, value: Any) -> None:
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(f'{name} must be {expected}; got {value!r}')


def require_number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises ValueError unless value is a finite number from low (or above low) to high."""
    fits = isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value) and low <= value <= high
    limit = f'above {low}' if above else f'of at least {low}' if high == math.inf else f'from {low} to {high}'
    require(fits and not (above and value == low), name, f'a number {limit}', value)


def require_count(name: str, value: Any, low: int = 1) -> None:
    """Raises ValueError unless value is a whole number of at least low."""
    fits = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= low
    require(fits, name, f'a whole number of at least {low}', value)


def lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    """table[name], or a ValueError that lists what there is."""
    if name not in table:
        raise ValueError(f'unknown {what} {name!r}; known: {", ".join(sorted(table))}')
    return table[name]


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


def check_batch(batch: Batch) -> None:
    """Raises ValueError unless batch is {'image': floating [B, ...], 'label': integer [B]}."""
    missing = {'image', 'label'} - set(batch)
    if missing:
        raise ValueError(f"a batch needs 'image' and 'label'; got {sorted(batch)}")
    image, label = batch['image'], batch['label']
    if not hasattr(image, 'dtype') or not hasattr(label, 'dtype'):
        raise ValueError(f'a batch holds arrays; got {type(image).__name__} images and {type(label).__name__} labels')
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"batch['image'] must be floating; got {image.dtype}: scale it, for instance by 1/255")
    require(image.size, "batch['image']", 'at least one example', image.shape)
    if not jnp.issubdtype(label.dtype, jnp.integer) or label.shape != image.shape[:1]:
        raise ValueError(
            f"batch['label'] must hold an integer class for each of the images {image.shape}; "
            f'got {label.dtype} {label.shape}'
        )


def score(logits: Array, label: Array) -> tuple[Array, Array]:
    """(mean cross-entropy in nats, share of errors) of a batch; the loss is NaN if a label is no class.

    Raises:
      ValueError: a label is no class and the labels are concrete, that is, outside jit.
    """
    classes, label = logits.shape[1], label.astype(jnp.int32)  # narrow types could not be compared with all classes
    inside = (label >= 0) & (label < classes)
    if not isinstance(inside, jax.core.Tracer) and not bool(inside.all()):
        came = np.unique(np.asarray(label))
        raise ValueError(f'labels of {classes} classes run from 0 to {classes - 1}; got {came[0]} to {came[-1]}')
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.where(inside, loss, jnp.nan).mean(), (logits.argmax(axis=1) != label).mean()
