"""Figures, without pyplot: a notebook's backend is left alone, and nothing has to be closed."""

import io
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
        from rlra_jax.plot.picture import Picture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('pictures are drawn by matplotlib: pip install matplotlib') from error
    figure = Picture(figsize=(width, height), layout='constrained')
    return figure, figure.subplots(**grid)


def save(figure: 'Figure', path: str | os.PathLike[str]) -> None:
    """Writes a file whose suffix picks the format, and makes its folder.

    Raises:
      ValueError: matplotlib has no such format.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rendered(figure, path.suffix.removeprefix('.')))


def rendered(figure: 'Figure', kind: str) -> bytes:
    """What a file of that format holds, such as 'svg': the same picture is the same file, without dates in it."""
    import matplotlib

    undated = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}.get(kind)
    file = io.BytesIO()
    with matplotlib.rc_context({'svg.hashsalt': 'rlra_jax'}):
        figure.savefig(file, format=kind, dpi=120, metadata=undated)
    return file.getvalue()
