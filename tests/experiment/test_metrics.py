import math

from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlra_jax.experiment.metrics import FIELDS, MetricsLog, read_metrics
from rlra_jax.experiment.watch import FIELDS as WATCHED


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
    assert sorted(events.Tags()['scalars']) == sorted((*FIELDS, 'step_seconds', 'step_share', 'input_share'))
    for name in FIELDS:
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert told == [(1, 1.5), (2, 1.5), (3, 5.5), (4, 5.5)]
    assert [event.value for event in events.Scalars('input_share')] == [0.25] * 4
