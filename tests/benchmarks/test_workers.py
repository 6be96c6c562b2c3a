import os

import pytest

from benchmarks.workers import Workers

SIZES = {'blocks': 2, 'width': 8, 'batch': 4}


@pytest.mark.full
@pytest.mark.parametrize(('processes', 'devices'), [(2, 1), (1, 2)])
def test_devices_of_all_processes_run_a_method_together(processes, devices):
    method = 'rec_lra stage'
    with Workers(SIZES, [method], [os.sched_getaffinity(0)] * processes, devices=devices) as workers:
        facts = workers.facts()[method]
        assert workers.time(method) > 0
    assert workers.sizes == {**SIZES, 'devices': 2}
    assert facts['sent_bytes_per_device'] > 0
