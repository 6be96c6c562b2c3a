"""Scalars as event files, which TensorBoard reads."""

import time
from collections.abc import Mapping

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

_SECONDS = 30  # between two looks that TensorBoard gets


class Events:
    """An event file, written as it is told to: what cannot be written is raised here, and not in a thread.

    Args:
      folder: whose; made if it does not exist.
      purge_from: TensorBoard forgets what other files of the folder tell of this step and later ones.
    """

    def __init__(self, folder: epath.Path, *, purge_from: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / 'events'))
        self._flushed = 0.0
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=purge_from, session_log=start))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Adds scalars by name."""
        for name, value in values.items():
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed > _SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
