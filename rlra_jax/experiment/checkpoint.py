"""Orbax checkpoints of a Run: the last epoch and the best one on validation, in one atomic step folder."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from rlra_jax.experiment.epoch import Run


class Checkpoints:
    """Saves and restores Runs in a folder. A kill while saving leaves the step before untouched."""

    def __init__(self, folder: pathlib.Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def epoch(self) -> int:
        """The last epoch saved, 0 if there is none."""
        return self._manager.latest_step() or 0

    def save(self, epoch: int, run: Run) -> None:
        """Writes in the background; `close` waits for it."""
        last, best = _parts(run)
        save = ocp.args.StandardSave
        self._manager.save(epoch, args=ocp.args.Composite(last=save(last), best=save(best)))

    def restore(self, like: Run) -> Run:
        """The Run saved last, with the shapes, dtypes and shardings of `like`."""
        last, best = _parts(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        restore = ocp.args.StandardRestore
        saved = self._manager.restore(self.epoch, args=ocp.args.Composite(last=restore(last), best=restore(best)))
        best = saved['best']
        return Run(saved['last'], best['variables'], best['error'], best['epoch'])

    def close(self) -> None:
        """Waits until all is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _parts(run: Run) -> tuple[Any, dict[str, Any]]:
    return run.state, {'variables': run.best, 'error': run.best_error, 'epoch': run.best_epoch}
