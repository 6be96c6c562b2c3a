"""Everything that needs several devices, in processes of their own: JAX counts its devices once, when it starts."""

import os
import pathlib
import subprocess
import sys

import helpers
import pytest

HERE = pathlib.Path(__file__).parent

# Each takes less than a minute of an idle core, but for what is marked full.
PARTS = 'stages', 'data_and_levels', 'delayed_stages', 'training', 'users_axes'


@pytest.mark.parametrize(
    'marks', ['not full', pytest.param('full', marks=[pytest.mark.full, pytest.mark.timeout(3600)])]
)
@pytest.mark.parametrize('part', helpers.quick(PARTS, 'stages', 'data_and_levels'))
def test_on_eight_simulated_devices(part, marks):
    options = '-q', '-x', '-p', 'no:cacheprovider', '-o', 'timeout=0'  # the outer test has one
    command = [sys.executable, '-m', 'pytest', *options, HERE / f'{part}.py', '-m', marks]
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
    environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    finished = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_two_processes_with_two_devices_each():
    command = [sys.executable, '-m', 'launch.local_pod', '--devices=2', '2', str(HERE / 'two_processes.py')]
    root = HERE.parents[1]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), str(root / 'tests')])}
    finished = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count(': equal') == 2
