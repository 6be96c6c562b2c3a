import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_a_run_that_is_killed_comes_to_the_same_bits(tmp_path):
    """While a checkpoint is written. `python -m benchmarks.faults` does so many times, and in two processes."""
    flags = '--kills=1', '--while_writing=1', '--processes=1', '--epochs=30', f'--results={tmp_path}'
    command = [sys.executable, '-m', 'benchmarks.faults', *flags]
    told = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    (row,) = json.loads((tmp_path / 'faults.json').read_text())['rows']
    assert row['kills'] == 1
    assert row['epochs_lost'] == 0
    assert row['runs'] == row['runs_identical'] > 0
