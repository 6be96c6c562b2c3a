"""`python -O` leaves out every assert, those of JAX and Flax, too. (pytest writes those of tests anew, as raises.)"""

import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.full
def test_learners_do_not_depend_on_asserts():
    command = [sys.executable, '-O', '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider']
    command += ['-W', 'ignore:assertions not in test modules', str(HERE / 'test_common.py')]
    command += ['-m', 'not full', '-k', 'backprop_in_silence and (lra or symmetry)']
    finished = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
