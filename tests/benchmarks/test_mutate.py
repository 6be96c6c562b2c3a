"""The faults that `benchmarks.mutants` looks for; that tests notice them is for `make mutants`."""

import ast
import functools
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import mutants
from benchmarks.mutate import by_hand
from benchmarks.mutate import mutants as found_in

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = '''
def grow(x: int = 2, *, most=None):
    """Says 1 + 1."""
    require(x > 1, 'x')
    if x < 0:
        raise ValueError(f'{x + 1} is less than 0')
    y = -x * 2 if most is None and x.T else jnp.sum(x)
    y += 1
    return zip(y, y, strict=True)
'''
FAULTS = {
    ('2', '3'),
    ('-x * 2 if most is None and x.T else jnp.sum(x)', '(-x * 2)'),
    ('-x * 2 if most is None and x.T else jnp.sum(x)', '(jnp.sum(x))'),
    ('-x', '(x)'),
    ('*', '/'),
    ('and', 'or'),
    ('x.T', 'x'),
    ('sum', 'mean'),
    ('y += 1', 'pass'),
    ('1', '2'),
}


def test_what_is_computed_is_broken_and_what_is_said_or_refused_is_not():
    faults = found_in('file.py', SOURCE)
    assert {(fault.old, fault.new) for fault in faults} == FAULTS
    for fault in faults:
        broken = fault.applied(SOURCE)
        assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(SOURCE))
        assert broken.splitlines()[fault.line - 1] != SOURCE.splitlines()[fault.line - 1]


def test_a_fault_by_hand_stands_in_one_place():
    assert by_hand('file.py', SOURCE, 'zip(y, y', 'zip(y, x').applied(SOURCE).count('zip(y, x') == 1
    with pytest.raises(ValueError, match=r"file.py must hold 'y' once; it holds it \d+ times"):
        by_hand('file.py', SOURCE, 'y', 'x')


def test_the_algorithm_and_the_rest_are_broken_in_many_places():
    """And what once went unnoticed still stands where it stood."""
    faults = [fault for file in mutants.ALGORITHM | mutants.OTHERS for fault in mutants.listed(file, 12)]
    assert len(faults) > 300
    for fault in faults:
        ast.parse(fault.applied((ROOT / 'rlra_jax' / fault.file).read_text()))
    suites = {test.partition('::')[0] for own in (mutants.ALGORITHM | mutants.OTHERS).values() for test in own}
    assert all((ROOT / 'tests' / test).exists() for test in suites)


FILES = [*mutants.ALGORITHM, *mutants.OTHERS]


def test_what_is_said_of_faults_that_change_nothing_is_said_of_one_each():
    told = [mutants.reason(fault) for file in FILES for fault in mutants.listed(file, 10**6)]
    assert sum(map(bool, told)) == len(mutants.NO_DIFFERENCE)


def test_again_are_those_that_went_unnoticed_and_stand_where_they_stood(tmp_path):
    first, *others = mutants.listed('rules/dx.py', 0)
    row = {'case': 'rules/dx.py', 'unnoticed': [first.name], 'no_difference': {others[-1].name: 'why'}}
    (tmp_path / 'mutants.json').write_text(json.dumps({'rows': [row]}))
    before = functools.partial(mutants.unnoticed_before, tmp_path / 'mutants.json')
    assert before('rules/dx.py', [first, *others]) == [first, others[-1]]
    for file, faults in (('rules/dx.py', others), ('rules/fixed.py', [first])):
        with pytest.raises(SystemExit, match=f'does not tell what went unnoticed in {file} as it is now'):
            before(file, faults)


@pytest.mark.full
def test_faults_are_found_and_told(tmp_path):
    command = [sys.executable, '-m', 'benchmarks.mutants', '--files', 'rules/fixed.py', f'--results={tmp_path}']
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    (row,) = json.loads((tmp_path / 'mutants.json').read_text())['rows']
    assert row == {'case': 'rules/fixed.py', 'faults': 1, 'noticed': 1, 'unnoticed': [], 'no_difference': {}}
