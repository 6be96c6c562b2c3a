import json
import pathlib

import pytest

from rlra_jax import plot
from rlra_jax.experiment import pictures

RESULTS = pathlib.Path(__file__).parents[2] / 'results'


def test_the_same_rows_are_the_same_picture(tmp_path):
    rows = json.loads((RESULTS / 'quick' / 'table2b.json').read_text())['rows']
    for name in ('first.svg', 'second.svg', 'first.pdf', 'second.pdf'):
        plot.save(pictures.of_rows(rows), tmp_path / name)
    assert (tmp_path / 'first.svg').read_bytes() == (tmp_path / 'second.svg').read_bytes()
    assert (tmp_path / 'first.pdf').read_bytes() == (tmp_path / 'second.pdf').read_bytes()


def row(dataset, learner, error, **changes):
    config = {'dataset': dataset, 'learner': {'name': learner}}
    curves = {'epoch': [1, 2], 'seconds': [3, 5], 'val_error_mean': [9.0, error], 'val_error_sd': [1.0, 1.0]}
    told = {'dataset': dataset, 'learner': learner, 'config': config, 'activation': 'tanh', 'epochs': 2}
    errors = {'test_error_mean': error, 'test_error_sd': 0.5, 'paper_test_error': None, 'num_seeds': 3}
    return {**told, **errors, 'curves': curves, **changes}


def test_a_table_as_a_picture_says_what_it_shows():
    rows = [row('mnist', 'backprop', 2.0, paper_test_error=1.5), row('mnist', 'rec_lra', 1.7)]
    figure = pictures.of_rows(rows)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ['rec_lra', 'backprop']
    assert figure.get_suptitle() == '3 seeds, mean ± 1 standard deviation; 2 epochs'
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['the paper', 'rlra_jax']


def test_angles_stand_beside_the_errors_of_rows_that_have_them():
    angles = {'angle/a': 20.0, 'angle/b': 60.0, 'angle/c': 40.0, 'angle/output': 0.0, 'norm_ratio/a': 1.0}
    rows = [row('mnist', 'backprop', 2.0), row('mnist', 'rec_lra', 1.7, diagnostics=angles), row('digits', 'dfa', 3.0)]
    figure = pictures.of_rows(rows)
    errors, beside, other = figure.axes
    assert (errors.get_title(), beside.get_title(), other.get_title()) == ('mnist', 'mnist', 'digits')
    regions, median = beside.lines[:2]
    assert (regions.get_xdata().tolist(), regions.get_ydata().tolist()) == ([20, 60, 40], [0, 0, 0])
    assert (median.get_xdata().tolist(), median.get_ydata().tolist()) == ([40], [0])
    assert errors.get_ylim() == beside.get_ylim()


@pytest.mark.parametrize(('worst', 'scale'), [(7.0, 'linear'), (20.0, 'log')])
def test_outliers_do_not_push_the_others_together(worst, scale):
    rows = [row('mnist', 'backprop', 2.0), row('mnist', 'rec_lra', worst)]
    assert pictures.of_rows(rows).axes[0].get_xscale() == scale


def test_curves_of_rows_have_a_panel_for_each_axis_and_are_named_where_they_end():
    rows = [row('mnist', name, error, num_seeds=1) for name, error in (('backprop', 2.0), ('rec_lra', 2.1))]
    figure = pictures.of_row_curves(rows, ('epoch', 'seconds'))
    left, right = figure.axes
    assert (left.get_title(), right.get_xlabel()) == ('mnist, tanh, against epoch', 'seconds')
    assert left.get_ylabel() == 'validation error (%)'
    assert ([text.get_text() for text in left.texts], [text.get_text() for text in right.texts]) == (
        [],
        ['backprop', 'rec_lra'],
    )
    assert figure.get_suptitle() == '1 seed'
    assert not right.collections  # no band of one seed


def test_regions_over_time(tmp_path):
    lines = [
        'epoch,seed,angle/a,angle/b,alignment/b->a,dead/a',
        '1,0,90,80,0,1',
        '2,0,40,nan,0.5,1',
        '2,1,60,nan,0.7,1',
    ]
    (tmp_path / 'metrics.csv').write_text('\n'.join(lines))
    found = pictures.of_diagnostics(tmp_path)
    assert list(found) == ['angle', 'alignment']
    (axis,) = found['angle'].axes
    assert [text.get_text() for text in axis.texts] == ['a']
    assert axis.lines[0].get_ydata().tolist() == [90, 50]
    (tmp_path / 'metrics.csv').write_text('epoch,seed,val_error\n1,0,9')
    assert pictures.of_diagnostics(tmp_path) == {}
