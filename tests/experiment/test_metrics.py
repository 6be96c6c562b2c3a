import math

import numpy as np
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlra_jax.experiment.metrics import FIELDS, MetricsLog, read_metrics
from rlra_jax.experiment.watch import FIELDS as WATCHED
from rlra_jax.experiment.writers import means


def measured(value):
    return {name: [value, value + 1] for name in FIELDS}


def test_rows_of_older_versions_stay(tmp_path):
    """They lack what is watched today; the file goes on."""
    log = MetricsLog(epath.Path(tmp_path), [0], epochs=2, resume_from=0)
    log.write(1, measured(0.5), 1.0)
    log.close()
    lines = (tmp_path / 'metrics.csv').read_text().splitlines()
    (tmp_path / 'metrics.csv').write_text('\n'.join(line.rsplit(',', len(WATCHED))[0] for line in lines) + '\n')
    log = MetricsLog(epath.Path(tmp_path), [0], epochs=2, resume_from=1)
    log.write(2, measured(0.5), 1.0, dict(zip(WATCHED, (0.1, 0.5, 0.25, math.nan), strict=True)))
    log.close()
    first, second = ({name: row[name] for name in WATCHED} for row in read_metrics(tmp_path / 'metrics.csv'))
    assert all(map(math.isnan, first.values()))
    assert second['input_share'] == 0.25
    assert log.watched == {'step_seconds': 0.1, 'step_share': 0.5, 'input_share': 0.25}


def test_columns_of_other_versions_stay(tmp_path):
    log = MetricsLog(epath.Path(tmp_path), [0], epochs=2, resume_from=0)
    log.write(1, measured(0.5), 1.0)
    log.close()
    head, row = (tmp_path / 'metrics.csv').read_text().splitlines()
    (tmp_path / 'metrics.csv').write_text(f'{head},angle/old\n{row},7.0\n')
    log = MetricsLog(epath.Path(tmp_path), [0], epochs=2, resume_from=1)
    log.write(2, measured(0.5), 1.0)
    log.close()
    first, second = (row['angle/old'] for row in read_metrics(tmp_path / 'metrics.csv'))
    assert first == 7
    assert math.isnan(second)


def test_tensorboard_reads_what_was_written(tmp_path):
    """By its own reader: means over seeds, and epochs that were run again after a stop are there once."""
    spent = dict(zip(WATCHED, (0.125, 0.5, 0.25, math.nan), strict=True))
    for resume_from, epochs, value in ((0, (1, 2, 3), 1.0), (2, (3, 4), 5.0)):
        log = MetricsLog(epath.Path(tmp_path), [0, 1], epochs=4, resume_from=resume_from)
        for epoch in epochs:
            log.write(epoch, measured(value), 1.0, spent)
        log.close()
        (file,) = (tmp_path / 'tensorboard').glob('*.tfevents.1*')  # named by the second in which it was opened
        file.rename(file.with_name(file.name.replace('tfevents.1', f'tfevents.0{resume_from}')))
    events = EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
    assert sorted(events.Tags()['scalars']) == sorted((*FIELDS, 'seconds', 'step_seconds', 'step_share', 'input_share'))
    for name in FIELDS:
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert told == [(1, 1.5), (2, 1.5), (3, 5.5), (4, 5.5)]
    assert [event.value for event in events.Scalars('input_share')] == [0.25] * 4


class Tracker:
    """As a user would write one."""

    def __init__(self):
        self.told = []

    def write_scalars(self, step, scalars):
        self.told.append((step, scalars))


def test_further_writers_get_what_metrics_csv_does(tmp_path):
    tracker = Tracker()
    log = MetricsLog(epath.Path(tmp_path), [3, 4], epochs=2, resume_from=0, writers=[tracker])
    log.write(1, measured(0.5), 1.5, dict.fromkeys(WATCHED, 0.25))
    log.close()
    ((step, scalars),) = tracker.told
    rows = read_metrics(tmp_path / 'metrics.csv')
    assert [row['seed'] for row in rows] == [3, 4]
    for i, row in enumerate(rows):
        told = {name: float(np.broadcast_to(value, (2,))[i]) for name, value in scalars.items()}
        assert {'epoch': step, 'seed': 3 + i, **told} == row
    assert means(scalars)['val_error'] == 1.0
