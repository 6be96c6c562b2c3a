"""Everything that needs several devices, in processes of their own: JAX counts its devices once, when it starts."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


def on_eight_devices(marks):
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-x',
        '-p',
        'no:cacheprovider',
        str(HERE / 'eight_devices.py'),
        str(HERE / 'delayed_stages.py'),
        str(HERE / 'training.py'),
        str(HERE / 'users_axes.py'),
        '-m',
        marks,
    ]
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
    environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    return subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, timeout=3000)


@pytest.mark.parametrize(
    'marks', ['not full', pytest.param('full', marks=[pytest.mark.full, pytest.mark.timeout(3600)])]
)
def test_on_eight_simulated_devices(marks):
    finished = on_eight_devices(marks)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_two_processes_with_two_devices_each():
    command = [sys.executable, '-m', 'launch.local_pod', '--devices=2', '2', str(HERE / 'two_processes.py')]
    root = HERE.parents[1]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), str(root / 'tests')])}
    finished = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count(': equal') == 2
