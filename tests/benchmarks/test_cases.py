import pytest

from benchmarks.cases import replace_rows
from rlra_jax.experiment.report import read_json


def test_a_case_takes_the_place_of_its_old_rows_alone(tmp_path):
    path = tmp_path / 'facts.json'
    replace_rows(path, 'deep', [{'case': 'deep, 8 blocks', 'n': 1}, {'case': 'deep', 'n': 2}], {'rounds': 1})
    replace_rows(path, 'deeper', [{'case': 'deeper', 'n': 3}], {'rounds': 2})
    replace_rows(path, 'deep', [{'case': 'deep', 'n': 4}], {'rounds': 3})
    assert read_json(path) == {
        'rows': [{'case': 'deeper', 'n': 3}, {'case': 'deep', 'n': 4}],
        'measured': {'deep': {'rounds': 3}, 'deeper': {'rounds': 2}},
    }


def test_a_file_of_something_else_is_kept(tmp_path):
    path = tmp_path / 'facts.json'
    path.write_text('{"rows": []}')
    with pytest.raises(ValueError, match=r"\['measured'\] is missing"):
        replace_rows(path, 'deep', [], {})
    assert path.read_text() == '{"rows": []}'
