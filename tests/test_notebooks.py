"""Notebooks run, are what their sources say, and keep small outputs that name no machine."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / 'notebooks').glob('*.py'))
LARGEST = 300_000  # bytes: what people clone


def test_the_notebooks_that_are_named_are_there():
    named = {'beyond_backprop', 'language', 'quickstart', 'wiring_and_levels', 'your_own_flax_model'}
    assert {source.stem for source in SOURCES} == named
    assert {path.stem for path in (ROOT / 'notebooks').glob('*.ipynb')} == named


@pytest.mark.parametrize('source', SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source_executed(source):
    jupytext = pytest.importorskip('jupytext')
    kept = source.with_suffix('.ipynb').read_text()
    notebook = json.loads(kept)
    cells = [(cell['cell_type'], ''.join(cell['source'])) for cell in notebook['cells']]
    assert cells == [(cell.cell_type, cell.source) for cell in jupytext.read(source).cells]
    code = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert [cell['execution_count'] for cell in code] == list(range(1, len(code) + 1))
    assert '%pip install' in ''.join(code[0]['source'])
    outputs = [output for cell in code for output in cell['outputs']]
    assert {output['output_type'] for output in outputs} <= {'stream', 'execute_result', 'display_data'}
    assert {output['name'] for output in outputs if output['output_type'] == 'stream'} == {'stdout'}, (
        'a warning is kept'
    )
    assert len(kept.encode()) < LARGEST
    texts = json.dumps([{**output, 'data': {**output.get('data', {}), 'image/png': ''}} for output in outputs])
    assert not [trace for trace in ('/home/', '/root/', '/tmp/', '/usr/', 'file://') if trace in texts]


def executed(source, **more):
    """The source as a script, as users' kernels run it."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **more}
    command = [sys.executable, '-W', 'error', source]
    done = subprocess.run(command, cwd=ROOT / 'notebooks', env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_notebook_runs():
    told = executed(ROOT / 'notebooks' / 'quickstart.py')
    difference, largest = (float(told.split(words)[1].split()[0].strip(',')) for words in ('difference ', 'up to '))
    assert difference < 1e-5 * largest


@pytest.mark.full
@pytest.mark.parametrize('source', [s for s in SOURCES if s.stem != 'quickstart'], ids=lambda path: path.stem)
def test_the_other_notebooks_run(source):
    executed(source)
