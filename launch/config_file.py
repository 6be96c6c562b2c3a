"""The flag --config; a config that cannot be used is told in one line with file and line."""

import pathlib
import traceback
from typing import Any

from absl import flags
from ml_collections import config_flags

from rlra_jax.experiment.entries import check_entries, flat

from . import find_config

flags.disclaim_key_flags()  # --config is one of the launcher that asks for it


class ConfigFileError(Exception):
    """FILE:LINE of a config file, and what was raised there."""


def define() -> None:
    """Defines --config, as ml_collections has it, and by short names too."""
    about = 'A name that rlra-list tells, or the path of a file; with entries of it, digits:learner=backprop.'
    config_flags.DEFINE_config_file('config', None, about)
    flags.FLAGS['config'].parser = _Parser()


class _Parser(flags.ArgumentParser):
    """'NAME:key=value,...' -> the config."""

    def parse(self, argument: str) -> Any:
        name, *options = argument.split(':', 1)
        path = find_config.find(name)
        try:
            config = _get_config(find_config.load(path), path)(*options)
        except Exception as error:
            raise ConfigFileError(_told(error, path)) from error
        if hasattr(config, 'lock'):
            config.lock()
        return config

    def flag_type(self) -> str:
        return 'config'


def given_config() -> Any:
    """What the file that --config names returned, with the command line's changes.

    Raises:
      ValueError: it is not given, or no config, or lacks entries; says where it is made.
    """
    flag = flags.FLAGS['config']
    if flag.value is None:
        raise ValueError(f'--config must have a value, such as digits; there are {", ".join(find_config.names())}')
    try:
        check_entries(flag.value)
    except ValueError as error:
        path = find_config.find(config_flags.get_config_filename(flag).partition(':')[0])
        raise ValueError(f'{_maker(path)}: {error}') from None
    return flag.value


def listing() -> str:
    """Every key: what it is in the config that --config names, or by default, and its meaning."""
    common, meanings = (find_config.load(find_config.FOLDER / f'{name}.py') for name in ('common', 'meaning'))
    config = flags.FLAGS['config'].value
    here = flat((common.base() if config is None else config).to_dict())
    given = {key: f'{key} = {here[key]!r}' for key in [*meanings.MEANING, *here] if key in here}
    width = max(map(len, given.values()))
    told = [f'{entry:<{width}}  {meanings.MEANING.get(key, "")}'.rstrip() for key, entry in given.items()]
    others = [f'{key:<{width}}  {meaning}' for key, meaning in meanings.MEANING.items() if key not in here]
    return '\n'.join([*told, '', 'Of other models and learners, or left out here:', *others])


def _get_config(module: Any, path: pathlib.Path) -> Any:
    if not hasattr(module, 'get_config'):
        raise ConfigFileError(f'{path} must define get_config(argument), which returns an ml_collections.ConfigDict')
    return module.get_config


def _told(error: Exception, path: pathlib.Path) -> str:
    """Where in the file the error comes from, and what it says."""
    if isinstance(error, ConfigFileError):
        return str(error)
    if isinstance(error, SyntaxError) and _same(error.filename, path):
        return f'{path}:{error.lineno}: {type(error).__name__}: {error.msg}'
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)]
    return f'{":".join(map(str, [path, *lines[-1:]]))}: {type(error).__name__}: {error}'


def _same(file: str | None, path: pathlib.Path) -> bool:
    return file is not None and pathlib.Path(file).resolve() == path.resolve()


def _maker(path: pathlib.Path) -> str:
    """FILE:LINE of its get_config."""
    lines = path.read_text(encoding='utf-8').splitlines()
    return next((f'{path}:{n}' for n, line in enumerate(lines, 1) if line.startswith('def get_config')), str(path))
