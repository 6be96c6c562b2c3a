"""Scalars as event files, which TensorBoard reads."""

import math
import time

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from rlra_jax.experiment.storage import writing
from rlra_jax.experiment.writers import Scalars, means

_SECONDS = 30  # between two looks that TensorBoard gets


class Events:
    """An event file, which TensorBoard reads: means over seeds, without what is not finite.

    It is written in this thread, so that what cannot be written is raised here.

    Args:
      folder: whose; made if it does not exist.
      purge_from: TensorBoard forgets what other files of the folder tell of this step and later ones.

    Raises:
      OSError: the folder cannot be written. So do the methods.
    """

    def __init__(self, folder: epath.Path, *, purge_from: int):
        self._folder, self._flushed = folder, 0.0
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / 'events'))
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=purge_from, session_log=start))

    def write_scalars(self, step: int, scalars: Scalars) -> None:
        """Adds scalars by name."""
        with writing(self._folder):
            for name, value in means(scalars).items():
                if math.isfinite(value):
                    self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            if time.monotonic() - self._flushed > _SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        with writing(self._folder):
            self._writer.close()
