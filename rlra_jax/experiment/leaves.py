"""A tree of arrays as one .npz file, in which every leaf has a checksum (CRC-32), and how Orbax writes it.

Orbax's own files of arrays tell neither flipped bits nor missing parts from what was saved.
"""

import asyncio
import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from rlra_jax.experiment.report import versions
from rlra_jax.parallel.distributed import leads
from rlra_jax.paths import flatten, refill
from rlra_jax.types import PyTree

_FILE = 'leaves.npz'
_VERSIONS = '//versions'  # no leaf's name: within names, '/' separates parts that are not empty
_SHOWN = 10  # differences in a message


class DiffersError(ValueError):
    """What was saved is whole, but not of the tree that was asked for; says what differs."""


def save(folder: epath.Path, tree: PyTree) -> None:
    """Writes the leaves, NumPy arrays, and the versions of what wrote them.

    Raises:
      OSError: they cannot be written, or do not read back as they are.
    """
    arrays: dict[str, Any] = {_VERSIONS: json.dumps(versions()), **flatten(tree)}
    with (folder / _FILE).open('wb') as file:
        np.savez(file, **arrays)
    with (folder / _FILE).open('rb') as file, zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise OSError(f'{damaged} does not read back as it was written')


def load(folder: epath.Path, like: PyTree) -> tuple[PyTree, dict[str, str]]:
    """(a tree of NumPy arrays, the versions of what saved it), every leaf checked against its checksum.

    Args:
      folder: where `save` wrote.
      like: a tree of that structure, whose leaves have the shapes and dtypes expected.

    Raises:
      DiffersError: it holds other leaves than `like`, or is of a version that wrote another kind of file.
      Exception: of any kind, if a part is missing or damaged.
    """
    if not (folder / _FILE).exists() and any(folder.glob('*/manifest.ocdbt')):
        raise DiffersError(
            f'{folder} was written by an older rlra_jax, in files of another kind. Read it with that version, or train '
            'anew in another --workdir.'
        )
    with (folder / _FILE).open('rb') as file, zipfile.ZipFile(file) as archive:
        there = {name.removesuffix('.npy'): _array(archive.read(name)) for name in archive.namelist()}
    made_by = json.loads(there.pop(_VERSIONS).item())
    wanted = flatten(like)
    # NumPy has no names for types of other packages, such as bfloat16, and keeps their bytes.
    there = {n: a.view(wanted[n].dtype) if n in wanted and a.dtype.kind == 'V' else a for n, a in there.items()}
    if differences := _differences(there, wanted):
        shown = '\n'.join(differences[:_SHOWN] + [f'and {n} more' for n in [len(differences) - _SHOWN] if n > 0])
        raise DiffersError(f'{folder} is of another model, learner or optimizer:\n{shown}')
    return refill(like, there), made_by


def _array(data: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    def told(leaves: Mapping[str, Any], name: str) -> str:
        return f'{leaves[name].dtype}{list(leaves[name].shape)}' if name in leaves else 'nothing'

    pairs = {name: (told(there, name), told(here, name)) for name in [*here, *(set(there) - set(here))]}
    return [f'  {name}: {a} there, {b} here' for name, (a, b) in sorted(pairs.items()) if a != b]


class Handler(ocp.AsyncCheckpointHandler):
    """Lets Orbax write a tree in the background, into a folder that appears once it is whole."""

    async def async_save(self, directory: epath.Path, args: 'Args') -> list[ocp.future.Future]:
        host = jax.device_get(args.tree)

        async def write() -> None:
            if leads():
                save(directory, host)

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name='leaves')]

    def save(self, directory: epath.Path, args: 'Args') -> None:
        for future in asyncio.run(self.async_save(directory, args)):
            future.result()

    def restore(self, directory: epath.Path, args: 'Args') -> PyTree:
        return load(directory, args.tree)[0]


@ocp.args.register_with_handler(Handler, for_save=True, for_restore=True)
@dataclasses.dataclass
class Args(ocp.args.CheckpointArgs):
    """What a Handler saves, or a tree like what it restores."""

    tree: PyTree
