import itertools
import logging

from rlra_jax.experiment import progress as module
from rlra_jax.experiment.progress import progress


def test_a_log_is_told_how_long_it_still_takes(monkeypatch, caplog):
    """Items of 6 seconds each: told every 10 seconds, and not when all is done."""
    clock = itertools.count(0, 6)
    monkeypatch.setattr(module.time, 'monotonic', lambda: next(clock))
    caplog.set_level(logging.INFO, logger=module.__name__)
    assert list(progress('abcdefg', 'reading', total=8, unit='letter', done=1)) == list('abcdefg')
    assert [record.getMessage() for record in caplog.records] == [
        'reading: 3 of 8 letters, 00:30 left',
        'reading: 5 of 8 letters, 00:18 left',
        'reading: 7 of 8 letters, 00:06 left',
    ]


def test_what_is_quick_tells_nothing(caplog):
    caplog.set_level(logging.INFO, logger=module.__name__)
    assert list(progress(range(3), 'counting', total=3, unit='number')) == [0, 1, 2]
    assert not caplog.records
