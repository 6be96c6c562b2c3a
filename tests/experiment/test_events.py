import math
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from rlra_jax.experiment.events import Events


def read(path):
    """The events of a file: each with its length and a checksum before, and a checksum behind."""
    data, found = path.read_bytes(), []
    while data:
        (size,) = struct.unpack('Q', data[:8])
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_scalars_and_where_they_begin_anew(tmp_path):
    events = Events(tmp_path / 'tensorboard', purge_from=3)
    events.write_scalars(3, {'loss': 0.5, 'hidden/angle': np.array([1.0, 3.0])})
    (path,) = (tmp_path / 'tensorboard').iterdir()
    assert path.name.startswith('events.out.tfevents.')
    assert len(read(path)) == 4  # who looks on sees them before the end
    events.write_scalars(4, {'loss': 0.25, 'peak_bytes': math.nan})
    events.close()
    version, start, *scalars = read(path)
    assert version.file_version == 'brain.Event:2'
    assert (start.step, start.session_log.status) == (3, SessionLog.START)
    told = [(event.step, value.tag, value.simple_value) for event in scalars for value in event.summary.value]
    assert told == [(3, 'loss', 0.5), (3, 'hidden/angle', 2.0), (4, 'loss', 0.25)]


def test_what_cannot_be_written_is_raised_at_once(tmp_path):
    (tmp_path / 'tensorboard').touch()
    with pytest.raises(OSError, match='tensorboard cannot be written'):
        Events(tmp_path / 'tensorboard', purge_from=1)
