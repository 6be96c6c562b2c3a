"""Orbax checkpoints, each an atomic folder: of a Run after an epoch, with the best one; of a Moment within one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from rlra_jax.experiment.epoch import Moment, Run
from rlra_jax.experiment.storage import is_local

_OPTIONS = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
_READ_ONLY = ocp.CheckpointManagerOptions(create=False)  # its own `read_only` warns of every option that it implies


class Checkpoints:
    """Saves and restores Runs in a folder. A kill while saving leaves the step before untouched.

    Args:
      folder: whose; made if it does not exist.
      read_only: leave the folder as it is. Whoever may write clears away what a kill left half written, and so must be
        the only one that has the folder open.
    """

    def __init__(self, folder: epath.Path, *, read_only: bool = False):
        options = _READ_ONLY if read_only else _OPTIONS
        self._manager = ocp.CheckpointManager(_absolute(folder), options=options)

    @property
    def epoch(self) -> int:
        """The last epoch saved, 0 if there is none."""
        return self._manager.latest_step() or 0

    def save(self, epoch: int, run: Run) -> None:
        """Writes in the background; `close` waits for it. Both raise OSError, naming the folder, if it fails."""
        last, best = _parts(run)
        save = ocp.args.StandardSave
        with _writing(self._manager):
            self._manager.save(epoch, args=ocp.args.Composite(last=save(last), best=save(best)))

    def restore(self, like: Run) -> Run:
        """The Run saved last, with the shapes, dtypes and shardings of `like`."""
        last, best = _parts(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        restore = ocp.args.StandardRestore
        try:
            saved = self._manager.restore(self.epoch, args=ocp.args.Composite(last=restore(last), best=restore(best)))
            best = saved['best']
        except Exception as error:
            raise ValueError(
                f'the checkpoint {self._manager.directory / str(self.epoch)} cannot be read ({error}); remove the '
                "run's folder to train it anew"
            ) from error
        return Run(saved['last'], best['variables'], best['error'], best['epoch'])

    def wait(self) -> None:
        """Waits until all is written."""
        with _writing(self._manager):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all is written."""
        self.wait()
        self._manager.close()


class Moments:
    """Saves and restores Moments in a folder, for an epoch too long to be lost.

    Args:
      folder: whose; it holds the last one.
      every: steps between two of them.
      steps: of an epoch.
    """

    def __init__(self, folder: epath.Path, every: int, steps: int):
        self._manager = ocp.CheckpointManager(_absolute(folder), options=_OPTIONS)
        self._every, self._steps = every, steps

    def due(self, done: int) -> bool:
        """Whether to save after so many steps of an epoch; not after the last, which makes a Run."""
        return done % self._every == 0 and done < self._steps

    def save(self, epoch: int, done: int, moment: Moment) -> None:
        """Writes in the background, once all steps are done on the device."""
        with _writing(self._manager):
            self._manager.save((epoch - 1) * self._steps + done, args=ocp.args.StandardSave(moment))

    def restore(self, epoch: int, like: Moment) -> tuple[int, Moment]:
        """(steps done, the Moment saved last, arrays as in `like`), or (0, like) if none was saved in this epoch.

        One of a later epoch goes: the Run that it came from was lost.
        """
        self._manager.wait_until_finished()
        latest = self._manager.latest_step() or 0
        number, done = divmod(latest, self._steps)
        if number >= epoch:
            self._manager.delete(latest)
        if number != epoch - 1 or not done:
            return 0, like
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return done, self._manager.restore(latest, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Waits until all is written."""
        with _writing(self._manager):
            self._manager.wait_until_finished()
            self._manager.close()


@contextlib.contextmanager
def _writing(manager: ocp.CheckpointManager) -> Iterator[None]:
    """One clear error, whatever threads and layers below raised."""
    try:
        yield
    except Exception as error:
        raise OSError(
            f'a checkpoint cannot be written into {manager.directory} ({error}); the one before is whole, and the same '
            'command goes on from there'
        ) from error


def _absolute(folder: epath.Path) -> epath.Path:
    """As Orbax wants it; epath would take a bucket's URL for a relative path."""
    return folder.absolute() if is_local(folder) else folder


def _parts(run: Run) -> tuple[Any, dict[str, Any]]:
    return run.state, {'variables': run.best, 'error': run.best_error, 'epoch': run.best_epoch}
