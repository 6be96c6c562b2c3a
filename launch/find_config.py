"""Configs by name or path: 'digits' is one of ours, 'mine/digits.py' any file."""

import importlib
import importlib.machinery
import importlib.util
import pathlib
import types

from rlra_jax.validate import lookup

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
_SHARED = '__init__', 'common', 'meaning', 'models', 'recipes'  # what configs are made of
PACKAGE = f'{__package__}'.removesuffix('launch') + 'configs'  # configs in a clone, rlra_jax.configs where installed


def names() -> list[str]:
    """Of all configs that come with the package, in the order of the alphabet."""
    return sorted(path.stem for path in FOLDER.glob('*.py') if path.stem not in _SHARED)


def experiments() -> list[str]:
    """Of those configs that have rows, which `launch.reproduce` trains."""
    return [name for name in names() if callable(getattr(load(find(name)), 'rows', None))]


def find(name: str) -> pathlib.Path:
    """The file of a config.

    Args:
      name: one of `names`, or a path; what ends in .py or has a slash is a path, and so is a file that there is.

    Raises:
      ValueError: there is no config of that name.
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    if path.suffix == '.py' or path.name != name:
        raise FileNotFoundError(f'there is no config file {name}; of ours there are {", ".join(names())}')
    return lookup({known: FOLDER / f'{known}.py' for known in names()}, name, 'config')


def load(path: pathlib.Path) -> types.ModuleType:
    """The module of a config file. Ours are modules of their package, so that they import each other."""
    if path.resolve().parent == FOLDER.resolve():
        return importlib.import_module(f'{PACKAGE}.{path.stem}')
    loader = importlib.machinery.SourceFileLoader(f'config_{path.stem}', str(path))  # whatever its suffix
    spec = importlib.machinery.ModuleSpec(loader.name, loader, origin=str(path))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
