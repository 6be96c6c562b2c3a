"""What classes are taken for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlra_jax.plot.figure import new

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUMBERED = 20  # so many classes have room for numbers in their cells


def confusion(counts: np.ndarray, names: Sequence[str] = ()) -> 'Figure':
    """What each class was taken for, in % of its examples; few enough classes have their numbers too.

    Args:
      counts: int [classes, classes], how often class i was taken for class j.
      names: of the classes, where these have other names than their numbers.
    """
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = new(7, 6)
    picture = axes.imshow(share, cmap='Blues', norm='symlog', vmin=0, vmax=100)
    axes.set(xlabel='taken for', ylabel='class', title='share of the class (%)')
    figure.colorbar(picture, format='%g')
    if names:
        size = 5 if len(share) > _NUMBERED else None
        axes.set_xticks(range(len(share)), names, size=size, rotation=90)
        axes.set_yticks(range(len(share)), names, size=size)
    elif len(share) <= _NUMBERED:
        axes.set(xticks=range(len(share)), yticks=range(len(share)))
    if len(share) <= _NUMBERED:
        for (row, column), value in np.ndenumerate(share):
            colour = 'white' if value > 10 else 'black'
            axes.text(column, row, f'{value:.3g}' if value else '', ha='center', va='center', color=colour, size=7)
    return figure
