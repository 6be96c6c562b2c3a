import json
import pathlib

import in_process
import pytest

from benchmarks import gpu
from configs import cifar10_strong


def test_tasks_are_tried_in_turn_until_the_time_is_over(tmp_path, monkeypatch):
    clock, given = [0.0], []

    def attempt(command, seconds):
        given.append((command, seconds))
        took, status = {'quick': (100, 0), 'bad': (50, 1), 'long': (seconds, None)}[command]
        clock[0] += took
        return status

    monkeypatch.setattr(gpu, 'attempt', attempt)
    monkeypatch.setattr(gpu.time, 'monotonic', lambda: clock[0])
    path, tasks = tmp_path / 'gpu.json', {name: name for name in ('bad', 'quick', 'long', 'last')}
    assert gpu.work(tasks, path, 480) == {'bad': 'failed with status 1', 'long': 'stopped', 'last': 'no time'}
    assert given == [('bad', 480), ('quick', 430), ('long', 330)]
    assert gpu.work({'next': 'quick'}, path, 480) == {}
    assert [(row['task'], row['seconds']) for row in gpu.finished(path)] == [('quick', 100), ('next', 100)]


def test_a_command_whose_time_is_over_is_asked_to_stop(capfd):
    timed = ['timeit', '-n1', '-r1']
    assert gpu.attempt([*timed, 'pass'], 120.0) == 0
    assert gpu.attempt([*timed, 'import time; time.sleep(600)'], 0.0) is None
    assert gpu.attempt(['nosuchmodule'], 120.0) == 1
    assert 'No module named nosuchmodule' in capfd.readouterr().err


def test_a_signal_is_handed_on_and_ends_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.stops, 'heard', lambda: True)
    sleep = ['timeit', '-n1', '-r1', 'import time; time.sleep(600)']
    assert gpu.work({'long': sleep, 'next': sleep}, tmp_path / 'gpu.json', 1200.0) == {
        'long': 'stopped',
        'next': 'no time',
    }


def test_the_list_tells_what_is_left(tmp_path):
    first = 'cifar10_strong BP-skips-2'
    assert cifar10_strong.rows()[0]['name'] in first
    (tmp_path / 'gpu.json').write_text(json.dumps({'rows': [{'task': first, 'seconds': 3.0}]}))
    status, told = in_process.launch('benchmarks.gpu', '--list', f'--results={tmp_path}')
    *lines, last = told.splitlines()
    assert status == 0, told
    assert lines[0].split() == [*first.split(), 'done']
    assert all(line.endswith('waiting') for line in lines[1:])
    assert last == f'{len(lines) - 1} of {len(lines)} tasks are left'
    assert {'resnet', 'depth resnet', 'table2a cifar10-cnn-backprop'} < {
        line.rpartition(' ')[0].strip() for line in lines
    }


@pytest.mark.parametrize('model', gpu.DEPTH)
def test_depth_is_measured_as_the_docs_say(model):
    """Rows of results/depth.json are of the model alone: another batch or limit would write over those quoted."""
    docs = ' '.join((pathlib.Path(__file__).parents[2] / 'docs' / 'parallel.md').read_text().split())
    assert ' '.join([f'--models={model}', *gpu.DEPTH[model]]) in docs
