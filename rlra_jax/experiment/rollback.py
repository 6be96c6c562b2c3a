"""Going back from a loss that is not finite: to the end of the epoch before, with lower learning rates."""

from typing import Any

import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from rlra_jax.experiment import report
from rlra_jax.experiment.entries import plain
from rlra_jax.parallel.distributed import leads

MOST = 3  # times that a run goes back
_FACTOR = 0.5  # of learning rates, each time
_REMEDY = 'remove that file, and nothing else: what it tells of happens again'


class Rollbacks:
    """Those of a run, in workdir/rollbacks.json: one that is stopped in between goes on as it would have."""

    def __init__(self, workdir: epath.Path):
        self._path = workdir / 'rollbacks.json'

    def told(self) -> list[dict[str, Any]]:
        """What went wrong before each: {'epoch': which failed, 'error': in words}; ValueError: the file is damaged."""
        told = report.read_json(self._path, ['rollbacks'], _REMEDY)['rollbacks'] if self._path.exists() else []
        if not isinstance(told, list) or not all(isinstance(each, dict) and 'epoch' in each for each in told):
            raise ValueError(
                f"{self._path}: rollbacks must be a list of {{'epoch': ..., 'error': ...}}, got {told!r}; {_REMEDY}"
            )
        return told

    def count(self, epoch: int) -> int:
        """How many there were, up to a checkpoint after this epoch; all processes must ask.

        Later ones are forgotten: a run that has lost their checkpoints will come to them again.
        """
        kept = [each for each in self.told() if each['epoch'] <= epoch + 1] if leads() else []
        if leads() and kept != self.told():
            report.write_json(self._path, {'rollbacks': kept})
        return int(multihost_utils.broadcast_one_to_all(np.asarray(len(kept))))

    def add(self, epoch: int, error: Exception) -> None:
        """Notes one more."""
        if leads():
            report.write_json(self._path, {'rollbacks': [*self.told(), {'epoch': epoch, 'error': str(error)}]})


def factor(times: int) -> float:
    """What learning rates are multiplied with after so many rollbacks."""
    return _FACTOR**times


def lowered(config: Any, times: int) -> dict[str, Any]:
    """A config with the learning rates that it has after so many rollbacks."""
    own = plain(config)
    for part in ('optimizer', 'synapse_optimizer'):
        rates = {name: own[part].get(name, 0.0) * factor(times) for name in ('learning_rate', 'end_rate')}
        own[part] = own[part] | rates
    return own
