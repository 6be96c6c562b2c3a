import json
import pathlib
import types

import pytest

from rlra_jax.experiment.row_report import write_report

RESULTS = pathlib.Path(__file__).parents[2] / 'results'


def quick_rows(**changes):
    rows = json.loads((RESULTS / 'quick' / 'table2b.json').read_text())['rows']
    return [{**row, **changes} for row in rows]


@pytest.mark.parametrize(('epochs', 'drawn'), [(2, []), (3, ['tiny.pdf', 'tiny.png', 'tiny.svg'])])
def test_runs_of_two_epochs_are_not_drawn(tmp_path, epochs, drawn):
    write_report(tmp_path / 'tiny.json', quick_rows(epochs=epochs), types.SimpleNamespace())
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in ('.png', '.svg', '.pdf')) == drawn
    told = (tmp_path / 'tiny.md').read_text()
    assert told.startswith('# tiny\n\nErrors in %, of each seed at its epoch of the lowest validation error;')
    assert 'Best epoch' not in told
    assert '± 0.00' not in told  # one seed each


@pytest.mark.parametrize(('step_ms', 'cell'), [(12.34, '12.3'), (None, '')])
def test_a_column_says_what_it_is(tmp_path, step_ms, cell):
    rows = quick_rows(epochs=1, step_ms=step_ms)[:1]
    write_report(tmp_path / 'tiny.json', rows, types.SimpleNamespace(COLUMNS=('step ms',)))
    told = (tmp_path / 'tiny.md').read_text()
    assert 'Step ms: mean time of a training step, which all seeds of a row take together.' in told
    assert f'| {cell} | 1 | 1 |\n' in told
