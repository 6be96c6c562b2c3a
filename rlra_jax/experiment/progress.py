"""How far something is, and how long it will still take."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from rlra_jax.parallel.distributed import leads

_LOG = logging.getLogger(__name__)
_EVERY = 10  # seconds between two lines at first; later a tenth of the time that has passed
T = TypeVar('T')


def progress(items: Iterable[T], what: str, *, total: int, unit: str, done: int = 0) -> Iterator[T]:
    """The items; meanwhile a terminal has a bar, and a log a line now and then, from the process that leads.

    Args:
      items: those still to do.
      what: is done with them.
      total: how many there are, with those done.
      unit: what one of them is.
      done: how many were done before.
    """
    bar = tqdm(total=total, initial=done, desc=what, unit=unit, leave=False, disable=None if leads() else True)
    start = told = time.monotonic()
    with bar:
        for number, item in enumerate(items, start=1):
            yield item
            bar.update()
            now = time.monotonic()
            if leads() and bar.disable and done + number < total and now - told > max(_EVERY, (now - start) / 10):
                left = time_left((now - start) / number, total - done - number)
                _LOG.info('%s: %d of %d %ss, %s', what, done + number, total, unit, left)
                told = now


def time_left(seconds: float, count: int) -> str:
    """'02:30 left', of so many things that take so long each."""
    return f'{tqdm.format_interval(seconds * count)} left'
