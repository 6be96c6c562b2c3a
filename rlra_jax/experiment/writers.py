"""Whatever takes a run's numbers as they come: metrics.csv, TensorBoard's events, and trackers of a user's own."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

Scalars = Mapping[str, float | np.ndarray]  # by name: a number for all seeds, or an array [seeds] with one for each


class Writer(Protocol):
    """Takes scalars. A user's own needs this method and no base class; its process is the one that leads."""

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Called once after each epoch, counted from 1. What it raises ends training.

        A run that goes on after a kill tells the epochs since its last checkpoint again.
        """


def means(scalars: Scalars) -> dict[str, float]:
    """Over seeds: what trackers take, which know of no arrays."""
    return {name: float(np.mean(value)) for name, value in scalars.items()}
