"""A config file that cannot be used, told in one line with file and line."""

import pathlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from rlra_jax.experiment.entries import check_entries


def given_config() -> Any:
    """What the file that --config names returned, with the command line's changes.

    Raises:
      ValueError: it is no config, or lacks entries, or the file cannot be read; says where it is made.
    """
    flag = flags.FLAGS['config']
    try:
        check_entries(flag.value)
    except ValueError as error:
        raise ValueError(f'{_maker(config_flags.get_config_filename(flag))}: {error}') from None
    except OSError as error:  # ml_collections keeps what loading raised until somebody looks
        raise ValueError(what_went_wrong(error, sys.argv)) from None
    return flag.value


def what_went_wrong(error: BaseException, argv: Sequence[str]) -> str | None:
    """FILE:LINE and what was raised there, if a config file that the arguments name raised it; else None.

    Between the file and us, absl and ml_collections put a traceback into a message; what the file raised is the first
    error of the chain that went through it.
    """
    files = {value.partition(':')[0] for value in _values(argv)}
    for link in _chain(error):
        if isinstance(link, SyntaxError) and link.filename in files:
            return f'{link.filename}:{link.lineno}: {type(link).__name__}: {link.msg}'
        frames = [frame for frame in traceback.extract_tb(link.__traceback__) if frame.filename in files]
        if frames:
            return f'{frames[-1].filename}:{frames[-1].lineno}: {type(link).__name__}: {link}'
    if isinstance(error, AttributeError) and error.name == 'get_config':
        return f'{" ".join(files)} must define get_config(argument), which returns an ml_collections.ConfigDict'
    if files and isinstance(error, OSError):
        return f'--config must name a file that can be read, such as configs/digits.py; got {" ".join(files) or "none"}'
    return None


def _values(argv: Sequence[str]) -> Iterator[str]:
    """What --config is set to, by one word or by two."""
    for name, following in zip(argv, [*argv[1:], ''], strict=True):
        flag, equals, value = name.partition('=')
        if flag.lstrip('-') == 'config':
            yield value if equals else following


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _maker(file: str) -> str:
    """FILE:LINE of its get_config."""
    lines = pathlib.Path(file).read_text(encoding='utf-8').splitlines()
    return next((f'{file}:{n}' for n, line in enumerate(lines, 1) if line.startswith('def get_config')), file)
