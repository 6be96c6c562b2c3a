"""Figures, without pyplot: a notebook's backend is left alone, and nothing has to be closed."""

import os
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = '0.55'


def new(width: float, height: float, **grid: Any) -> 'tuple[Figure, Any]':
    """(a figure of so many inches, its axes), as plt.subplots gives them.

    Raises:
      ModuleNotFoundError: matplotlib is missing; says how to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('pictures are drawn by matplotlib: pip install matplotlib') from error
    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, figure.subplots(**grid)


def save(figure: 'Figure', path: str | os.PathLike[str]) -> None:
    """The same picture is the same file: no date is in it, and no random names. The suffix picks the format."""
    import matplotlib

    path = pathlib.Path(path)
    undated = {'.svg': {'Date': None}, '.pdf': {'CreationDate': None}}.get(path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({'svg.hashsalt': 'rlra_jax'}):
        figure.savefig(path, dpi=120, metadata=undated)
