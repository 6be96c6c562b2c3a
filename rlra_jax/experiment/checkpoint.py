"""Checkpoints, each an atomic folder: of a Run after an epoch, with the best one; of a Moment within one."""

import logging
from collections.abc import Iterable

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from rlra_jax.experiment import leaves
from rlra_jax.experiment.epoch import Moment, Run
from rlra_jax.experiment.report import versions
from rlra_jax.experiment.storage import is_local, writing
from rlra_jax.parallel.distributed import leads
from rlra_jax.types import PyTree

_KEPT = 3  # checkpoints: should the last be damaged, there are others
_TMP, _BROKEN = '.orbax-checkpoint-tmp', 'broken-'  # in names of folders that are none
_ASYNC = ocp.options.AsyncOptions(create_directories_asynchronously=False)  # or it waits minutes for one that can't be
_LOG = logging.getLogger(__name__)


class Folder:
    """The last few of numbered trees, each a checkpoint. A kill while saving leaves those before untouched.

    Args:
      path: made if it does not exist.
      read_only: leave it as it is. Whoever may write clears away what a kill left half written or half deleted, and so
        must be the only one that has the folder open.
    """

    def __init__(self, path: epath.Path, *, read_only: bool = False):
        # epath would take a bucket's URL for a relative path.
        self.path = epath.Path(path).absolute() if is_local(path) else path
        self._read_only = read_only
        self._writer = ocp.AsyncCheckpointer(leaves.Handler(), async_options=_ASYNC)
        if leads() and not read_only:
            with writing(self.path, Exception):
                self.path.mkdir(parents=True, exist_ok=True)
                for rest in [child for child in self.path.iterdir() if _TMP in child.name]:
                    rest.rmtree()

    def numbers(self) -> list[int]:
        """Of what is there, newest first."""
        names = [child.name for child in self.path.iterdir()] if self.path.exists() else []
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def save(self, number: int, tree: PyTree) -> None:
        """Writes in the background, once the one before is written.

        Raises:
          OSError: naming the folder, if that fails, or the one before did. So do `wait` and `close`.
        """
        self.wait()
        with writing(self.path, Exception):
            if leads() and is_local(self.path) and not self.path.exists():
                raise FileNotFoundError('the folder is gone')  # Orbax would make it, without the rest of the run
            self._writer.save(self.path / str(number), args=leaves.Args(tree))

    def restore(self, like: PyTree, numbers: Iterable[int]) -> tuple[int, PyTree] | None:
        """(number, tree) of the first of these that is whole, with the shardings of `like`; None if none is.

        A warning tells of each that is not.

        Raises:
          DiffersError: it is of another model than `like`, or of another learner or optimizer.
        """
        left = iter(numbers)
        while (number := _as_the_leader(next(left, -1))) >= 0:
            whole = _load(self.path / str(number), like)
            if _everywhere(whole is not None):
                return number, jax.tree.map(_put, whole, like)
        return None

    def set_aside(self, numbers: Iterable[int]) -> None:
        """Renames what cannot be read, so that its number is free again and nothing is lost that could be of use."""
        for number in numbers if leads() and not self._read_only else ():
            path, aside = self.path / str(number), self.path / f'{_BROKEN}{number}'
            if aside.exists():
                aside.rmtree()
            path.rename(aside)
            _LOG.warning('%s is %s now; nothing needs it', path, aside)

    def remove(self, numbers: Iterable[int]) -> None:
        """Deletes these: under another name, so that a kill leaves nothing that looks whole."""
        for number in numbers if leads() and not self._read_only else ():
            gone = self.path / f'{number}{_TMP}'
            (self.path / str(number)).rename(gone)
            gone.rmtree()

    def wait(self) -> None:
        """Waits until all is written, and keeps the last few; read-only, all of them."""
        with writing(self.path, Exception):
            self._writer.wait_until_finished()
            self.remove(self.numbers()[_KEPT:])

    def close(self) -> None:
        """Waits until all is written."""
        self.wait()
        self._writer.close()


class Checkpoints:
    """Saves and restores Runs in a folder, by epoch."""

    def __init__(self, path: epath.Path, *, read_only: bool = False):
        """As `Folder`."""
        self._folder = Folder(path, read_only=read_only)
        self.epoch = 0  # the last one saved or restored

    def save(self, epoch: int, run: Run) -> None:
        """As `Folder.save`."""
        self._folder.save(epoch, run)
        self.epoch = epoch

    def restore(self, like: Run) -> Run | None:
        """The last Run that is whole, with the shapes, dtypes and shardings of `like`; None if none was saved.

        Raises:
          ValueError: none that was saved is whole, or it is of another model than `like`.
        """
        numbers = self._folder.numbers()
        found = self._folder.restore(like, numbers)
        if found is None and numbers:
            raise ValueError(
                f'no checkpoint in {self._folder.path} can be read; remove that folder, and nothing else, to train anew'
            )
        self.epoch, run = found or (0, None)
        self._folder.set_aside(number for number in numbers if number > self.epoch)
        return run

    def wait(self) -> None:
        """Waits until all is written."""
        self._folder.wait()

    def close(self) -> None:
        """Waits until all is written."""
        self._folder.close()


class Moments:
    """Saves and restores Moments in a folder, for an epoch too long to be lost.

    Args:
      path: of the folder; it holds the last few.
      every: steps between two of them; 0: none but where training stops.
      steps: of an epoch.
    """

    def __init__(self, path: epath.Path, every: int, steps: int):
        self._folder = Folder(path)
        self._every, self._steps = every, steps

    def due(self, done: int) -> bool:
        """Whether to save after so many steps of an epoch; not after the last, which makes a Run."""
        return done == self.next_due(done - 1) < self._steps

    def next_due(self, done: int) -> int:
        """The steps of an epoch after which the next is due."""
        return (done // self._every + 1) * self._every if self._every else self._steps

    def save(self, epoch: int, done: int, moment: Moment) -> None:
        """Writes in the background, once all steps are done on the device."""
        self._folder.save((epoch - 1) * self._steps + done, moment)

    def restore(self, epoch: int, like: Moment) -> tuple[int, Moment]:
        """(steps done, the last Moment that is whole, arrays as in `like`), or (0, like) if this epoch has none.

        Those of a later epoch go: the Run that they came from was lost.
        """
        self._folder.wait()
        first, numbers = (epoch - 1) * self._steps, self._folder.numbers()
        self._folder.remove(number for number in numbers if number >= first + self._steps)
        ours = [number for number in numbers if first < number < first + self._steps]
        number, moment = self._folder.restore(like, ours) or (first, like)
        self._folder.set_aside(broken for broken in ours if broken > number)
        return number - first, moment

    def forget(self, epoch: int) -> None:
        """Removes those of an epoch that is to be trained in another way."""
        self._folder.wait()
        self._folder.remove(number for number in self._folder.numbers() if number > (epoch - 1) * self._steps)

    def close(self) -> None:
        """Waits until all is written."""
        self._folder.close()


def _load(path: epath.Path, like: PyTree) -> PyTree | None:
    """The tree on the host; or None, with a warning of what is broken."""
    try:
        tree, theirs = leaves.load(path, like)
    except leaves.DiffersError:
        raise
    except Exception as error:  # what damaged files raise cannot be foreseen
        _LOG.warning(
            'the checkpoint %s cannot be read (%s: %s); the one before is used, if there is one',
            path,
            type(error).__name__,
            error,
        )
        return None
    ours = versions()
    if changed := [f'{n} {theirs[n]} there, {ours.get(n)} here' for n in theirs if theirs[n] != ours.get(n)]:
        _LOG.warning('the checkpoint %s was written by other versions: %s', path, '; '.join(changed))
    return tree


def _as_the_leader(number: int) -> int:
    """The number that the first process has: others may see a shared folder as it was some seconds ago."""
    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


def _everywhere(flag: bool) -> bool:
    """Whether it is so in all processes, which must all ask."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(flag))))


def _put(whole: np.ndarray, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """An array that every process has, where `like` lies."""
    return jax.make_array_from_callback(whole.shape, like.sharding, lambda index: whole[index])
