import json

import matplotlib.image
import pytest

from configs import common, digits
from rlra_jax.experiment import front
from rlra_jax.experiment.space import FREE


def point(number, synapses, error, wiring=FREE):
    names = 'train_error', 'val_error', 'test_error'
    result = dict.fromkeys(names, error) | {f'{name}_sd': 0.5 for name in names} | {'seeds': 2}
    options = {'learner.wiring': 'edges' if wiring == FREE else wiring, 'optimizer.learning_rate': 0.002}
    options |= {'learner.edges': ['output->hidden_1', 'output->hidden_2']} if wiring == FREE else {}
    return front.Point(number, wiring, options, {'synapses': synapses, 'levels': 1}, result)


POINTS = [
    point(0, 300, 4.0, 'chain'),
    point(1, 100, 9.0, 'direct'),
    point(2, 100, 8.0),
    point(3, 200, 4.0),
    point(4, 250, 4.0),
    point(5, 400, 5.0),
]


def test_the_front_has_none_that_another_beats_at_no_more_cost():
    assert [p.number for p in front.best(POINTS, 'synapses')] == [2, 3]
    assert [p.number for p in front.best(POINTS, 'levels')] == [0]
    assert front.best([], 'synapses') == []


def test_table_picture_and_numbers(tmp_path):
    """The table has the best made by hand too, which is not on the front."""
    front.write(tmp_path, POINTS, 'synapses')
    lines = (tmp_path / 'front.md').read_text().splitlines()
    assert lines[0] == '| trial | wiring | synapses | levels | validation error | test error |'
    assert lines[2] == '| 2 | output->hidden_1, output->hidden_2 | 100 | 1 | 8.00 ± 0.50 | 8.00 ± 0.50 |'
    assert [line.split(' | ')[0] for line in lines[2:5]] == ['| 2', '| 3', '| 0']
    trials = json.loads((tmp_path / 'front.json').read_text())['trials']
    assert [t['number'] for t in trials if t['on_the_front']] == [2, 3]
    assert matplotlib.image.imread(tmp_path / 'front.png').std() > 0
    assert (tmp_path / 'front.svg').exists()
    assert (tmp_path / 'front.pdf').exists()


def test_costs_that_only_later_trials_have_are_not_in_the_table():
    later = POINTS[3]._replace(costs={'synapses': 200, 'levels': 1, 'flops': 5e3})
    assert front.table([POINTS[2], later], 'synapses').head[:4] == ('trial', 'wiring', 'synapses', 'levels')


def test_what_trains_a_point_again_is_an_argument_of_its_config():
    config = digits.get_config(POINTS[2].argument)
    assert dict(common.parse(POINTS[2].argument)) == {
        'learner.wiring': 'edges',
        'optimizer.learning_rate': 0.002,
        'learner.edges': ('output->hidden_1', 'output->hidden_2'),
    }
    assert config.learner.edges == ('output->hidden_1', 'output->hidden_2')


def test_a_study_without_an_end_has_no_picture(tmp_path):
    front.write(tmp_path, [], 'synapses')
    assert [path.name for path in tmp_path.iterdir()] == ['front.json']
    with pytest.raises(IndexError):
        front.table([], 'synapses')
