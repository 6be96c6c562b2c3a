"""Paths as users give them: ~ is their home, and gs://bucket/run or its kin a bucket, not a folder of that name."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

from etils import epath

from rlra_jax.validate import require


def open_path(path: str | os.PathLike[str]) -> epath.Path:
    """The local folder or the bucket that a path names.

    Raises:
      ValueError: it names a kind of storage that nothing here can read, or is a pathlib.Path made of a URL.
      ModuleNotFoundError: a package that reads this kind is missing; says which.
    """
    if re.match(r'\w{2,}:/[^/]', os.fspath(path)):  # gs:/bucket
        raise ValueError(f'{path} must be a string: pathlib drops a slash of a URL')
    try:
        opened = epath.Path(path)
    except KeyError as error:
        raise ValueError(f'{path} must be a local path, or begin with gs://, s3://, az:// or hf://') from error
    if is_local(opened):
        return opened.expanduser()
    try:
        opened.exists()
    except ImportError as error:
        raise ModuleNotFoundError(f'{path} cannot be reached: {error}') from error
    return opened


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """The local file or folder that a path names.

    Raises:
      ValueError: it names no local one.
    """
    if not is_local(path):
        raise ValueError(f'{path} must be a local path: pictures and tables are not written into buckets')
    return pathlib.Path(path).expanduser()


def is_local(path: str | os.PathLike[str]) -> bool:
    """Whether a path is one of this machine's file systems, which alone have locks."""
    return '://' not in os.fspath(path)


def require_file(path: epath.Path) -> None:
    """Raises ValueError if a folder lies where a file is to be written."""
    require(not path.is_dir(), 'the path to write', 'that of a file', str(path))


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], errors: type[Exception] = OSError) -> Iterator[None]:
    """One clear error where a file or folder of a run cannot be written.

    Raises:
      OSError: naming it, in place of `errors`.
    """
    try:
        yield
    except errors as error:
        reason = getattr(error, 'strerror', None) or error
        raise OSError(
            f'{path} cannot be written ({reason}); once it can, the same command goes on from the last checkpoint'
        ) from error
