"""Files that spare time and nothing else: what cannot be read is made anew, what cannot be written is not kept."""

import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import TypeVar

_LOG = logging.getLogger(__name__)
T = TypeVar('T')


def cache_dir() -> pathlib.Path:
    """Where what was computed from data sets is kept."""
    base = os.environ.get('RLRA_CACHE_DIR')
    return pathlib.Path(base).expanduser() if base else pathlib.Path.home() / '.cache' / 'rlra_jax'


def cached(
    path: pathlib.Path,
    *,
    load: Callable[[pathlib.Path], T],
    make: Callable[[], T],
    save: Callable[[pathlib.Path, T], None],
) -> T:
    """load(path) where that works, else make(), which save(path, value) keeps for the next time.

    Args:
      path: a file or folder.
      load: reads it; raises where it is damaged.
      make: computes the value.
      save: writes the value to a path that does not exist yet.
    """
    if os.path.exists(path):  # Path.exists would raise where a folder may not be looked into
        try:
            return load(path)
        except Exception as error:  # damaged bytes make libraries raise anything
            _LOG.warning('%s is damaged (%s) and made anew', path, error)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
    value = make()
    try:
        _write(path, value, save)
    except OSError as error:
        if not os.path.exists(path):  # another process may have been faster
            _LOG.warning('%s cannot be written (%s); it will be made anew next time', path, error)
    return value


def _write(path: pathlib.Path, value: T, save: Callable[[pathlib.Path, T], None]) -> None:
    """Through a temporary folder, so that a kill leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = pathlib.Path(scratch) / path.name
        save(part, value)
        part.replace(path)
