"""Checks of what users hand over. Errors name what was expected and what came."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from rlra_jax.types import Batch


def require(condition: Any, name: str, expected: str, value: Any) -> None:
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(f'{name} must be {expected}; got {value!r}')


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


def check_batch(batch: Batch) -> None:
    """Raises ValueError unless batch is {'image': floating [B, ...], 'label': integer [B]}."""
    missing = {'image', 'label'} - set(batch)
    if missing:
        raise ValueError(f"a batch needs 'image' and 'label'; got {sorted(batch)}")
    image, label = batch['image'], batch['label']
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"batch['image'] must be floating; got {image.dtype}: scale it, for instance by 1/255")
    if not jnp.issubdtype(label.dtype, jnp.integer) or label.shape != image.shape[:1]:
        raise ValueError(
            f"batch['label'] must hold an integer class for each of the images {image.shape}; "
            f'got {label.dtype} {label.shape}'
        )
