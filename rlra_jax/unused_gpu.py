"""A GPU that JAX leaves unused, since the plugin for it is another version's."""

import functools
import re
import warnings
from importlib import metadata
from typing import Any

import jax

_PLUGINS = {'jax-cuda12-plugin': 'cuda12', 'jax-cuda13-plugin': 'cuda13'}  # distribution -> extra of jax


@functools.cache
def warn_of_unused_gpu() -> None:
    """Warns, once, if JAX runs on the CPU, not by choice, and this jaxlib takes none of the CUDA plugins installed."""
    jaxlib = metadata.version('jaxlib')
    plugins = {name: version for name in _PLUGINS if (version := _version(name))}
    if any(_numbers(version) == _numbers(jaxlib) for version in plugins.values()):
        return
    config: Any = jax.config  # some versions do not declare its fields
    chosen = config.jax_platforms
    if plugins and chosen != 'cpu' and jax.default_backend() == 'cpu':
        name, version = next(iter(plugins.items()))
        warnings.warn(
            f'JAX runs on the CPU: jaxlib {jaxlib} takes no {name} {version}; '
            f"pip install 'jax[{_PLUGINS[name]}]=={metadata.version('jax')}' brings the one that fits",
            stacklevel=3,
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> str:
    """'0.10.2' of '0.10.2.dev3', as jaxlib compares them."""
    return re.match(r'\d+(\.\d+)*', version).group()  # type: ignore[union-attr]
