import json

import in_process

from benchmarks import gpu
from configs import cifar10_strong

FAKES = {
    'quick': ['timeit', '-n1', '-r1', 'pass'],
    'bad': ['nosuchmodule'],
    'long': ['timeit', '-n1', '-r1', 'import time; time.sleep(60)'],
    'last': ['timeit', '-n1', '-r1', 'pass'],
}


def test_tasks_are_tried_in_turn_until_the_time_is_over(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpu, '_GRACE', 1.0)
    path = tmp_path / 'gpu.json'
    left = gpu.work(FAKES, path, 5.0)
    assert left == {'bad': 'failed with status 1', 'long': 'stopped', 'last': 'no time'}
    assert [row['task'] for row in gpu.finished(path)] == ['quick']
    assert 'No module named nosuchmodule' in capfd.readouterr().err
    assert gpu.work({'last': FAKES['last']}, path, 5.0) == {}
    assert [row['task'] for row in gpu.finished(path)] == ['quick', 'last']


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
