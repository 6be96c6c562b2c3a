"""A config file that cannot be used, told in one line with file and line."""

import pathlib
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from rlra_jax.experiment.entries import check_entries


def given_config() -> Any:
    """What the file that --config names returned, with the command line's changes.

    Raises:
      ValueError: it is no config, or lacks entries; says where it is made.
    """
    config = flags.FLAGS['config'].value
    try:
        check_entries(config)
    except ValueError as error:
        raise ValueError(f'{_maker(config_flags.get_config_filename(flags.FLAGS["config"]))}: {error}') from None
    return config


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
