"""Which commit the programs at work are of."""

import functools
import pathlib
import subprocess
from typing import Any

import rlra_jax


@functools.cache
def commit(folder: pathlib.Path = pathlib.Path(rlra_jax.__file__).parent) -> dict[str, Any] | None:
    """{'commit': its hash, 'dirty': whether tracked files differ from it}, as of the first call.

    None where the package is in no git checkout, as where it was installed, even if its folder lies inside another's.
    """
    if _git(folder, 'ls-files', '--error-unmatch', '__init__.py') is None:
        return None
    found = _git(folder, 'rev-parse', 'HEAD')
    changed = _git(folder, 'status', '--porcelain', '--untracked-files=no')
    return None if found is None else {'commit': found, 'dirty': bool(changed)}


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    """What git says, without the line's end; None if it has nothing to say, or is not there."""
    command = ['git', '--no-optional-locks', '-C', str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, encoding='utf-8', errors='replace', check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
