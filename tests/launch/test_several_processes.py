"""Launchers in several processes, with stand-ins for the programs that pods and clusters bring."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SRUN = """for rank in 0 1; do
  SLURM_JOB_ID=4711 SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
done
for job in $(jobs -p); do wait $job; done
"""


def run(folder, *arguments, **environment):
    path = f'{folder}{os.pathsep}{os.environ["PATH"]}'
    everything = {**os.environ, 'PATH': path, 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.run(arguments, capture_output=True, text=True, cwd=folder, env=everything)


def stand_in(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\nset -e\n{script}\n')
    path.chmod(0o755)


def test_pod_starts_every_worker(tmp_path):
    stand_in(tmp_path / 'gcloud', 'printf "%s\\n" "$@"')
    script = ROOT / 'launch' / 'pod.sh'
    told = run(tmp_path, script, 'launch.train', '--config=configs/digits.py:model.widths=(8,)', TPU='pod', ZONE='here')
    *arguments, command = told.stdout.splitlines()
    assert arguments == ['compute', 'tpus', 'tpu-vm', 'ssh', 'pod', '--zone=here', '--worker=all']
    remote = command.removeprefix('--command=cd rlra_jax && .venv/bin/python -m ')
    words = run(tmp_path, 'bash', '-c', f'printf "%s\\n" {remote}').stdout.splitlines()
    assert words == ['launch.train', '--config=configs/digits.py:model.widths=(8,)', '--coordinator=auto']


@pytest.mark.parametrize('script', ['pod.sh', 'slurm.sh'])
def test_scripts_tell_how_they_are_used(tmp_path, script):
    told = run(tmp_path, ROOT / 'launch' / script, TPU='', ZONE='')
    assert told.returncode == 2
    assert f'launch/{script} launch.train --config=' in told.stderr


POD = [sys.executable, '-m', 'launch.local_pod', '2']


def test_when_one_process_fails_the_others_stop(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text('import sys, time\nif "--process_id=1" in sys.argv: sys.exit(3)\ntime.sleep(900)\n')
    told = subprocess.run([*POD, program], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 3
    assert 'process 1 ended with status 3; the others are stopped' in told.stderr


def test_a_pod_that_is_stopped_leaves_nobody_behind(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text('import os, pathlib, time\npathlib.Path(f"{__file__}.{os.getpid()}").touch()\ntime.sleep(900)\n')
    pod = subprocess.Popen([*POD, program], cwd=ROOT)
    while len(started := list(tmp_path.glob('program.py.*'))) < 2:
        time.sleep(0.1)
    pod.terminate()
    assert pod.wait() == 128 + signal.SIGTERM
    for file in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.suffix[1:]), 0)


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells processes of the end of their parent')
def test_a_pod_that_is_killed_leaves_nobody_behind(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text(
        'import os, pathlib, time\n'
        'pathlib.Path(f"{__file__}.{os.getpid()}").touch()\n'
        'time.sleep(10)\n'
        'pathlib.Path(__file__).with_name("survived").touch()\n'
    )
    pod = subprocess.Popen([*POD, program], cwd=ROOT)
    while len(started := list(tmp_path.glob('program.py.*'))) < 2:
        time.sleep(0.1)
    pod.kill()
    pod.wait()
    for file in started:
        while _lives(int(file.suffix[1:])):
            time.sleep(0.1)
    assert not (tmp_path / 'survived').exists()


def _lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_pod_that_is_stopped_lets_all_processes_end(tmp_path):
    """Even if one is done sooner; whatever signal came, they hear it."""
    program = tmp_path / 'program.py'
    program.write_text(
        'import pathlib, signal, sys, time\n'
        'def end(*_):\n'
        '  if "--process_id=1" in sys.argv:\n'
        '    time.sleep(1)\n'
        '    print("saved")\n'
        '  sys.exit(75)\n'
        'signal.signal(signal.SIGINT, end)\n'
        'pathlib.Path(f"{__file__}.{sys.argv[-1]}").touch()\n'
        'time.sleep(900)\n'
    )
    pod = subprocess.Popen([*POD, program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob('program.py.*'))) < 2:
        time.sleep(0.1)
    pod.send_signal(signal.SIGINT)
    assert pod.communicate() == ('saved\n', None)
    assert pod.returncode == 75


def test_surroundings_that_tell_nothing(tmp_path):
    told = run(
        tmp_path, sys.executable, '-m', 'launch.train', f'--config={ROOT}/configs/digits.py', '--coordinator=auto'
    )
    assert told.returncode == 1
    assert 'must be given where the surroundings do not tell them, as TPU pods, SLURM and Open MPI do' in told.stderr
    assert 'Traceback' not in told.stderr


def test_only_a_part_of_the_flags(tmp_path):
    told = run(tmp_path, sys.executable, '-m', 'launch.train', f'--config={ROOT}/configs/digits.py', '--process_id=1')
    assert told.returncode != 0
    assert 'coordinator, num_processes and process_id must be given together' in told.stderr


@pytest.mark.full
def test_two_tasks_under_slurm_train_as_one_process_does(tmp_path):
    """Found by --coordinator=auto; only the first of them writes and talks."""
    stand_in(tmp_path / 'srun', SRUN)
    stand_in(tmp_path / '.venv' / 'bin' / 'python', f'exec {sys.executable} "$@"')
    config = f'--config={ROOT}/configs/digits.py:model.widths=(16,16),num_seeds=1,epochs=2,batch_size=48'
    command = 'launch.train', config
    both = run(tmp_path, ROOT / 'launch' / 'slurm.sh', *command, '--workdir=both')
    assert both.returncode == 0, both.stderr
    assert both.stderr.count('epoch 2/2') == 1
    assert both.stdout.count('| rec_lra | digits |') == 1
    alone = run(tmp_path, sys.executable, '-m', *command, '--workdir=alone')
    assert alone.returncode == 0, alone.stderr
    ours, theirs = (json.loads((tmp_path / name / 'result.json').read_text()) for name in ('both', 'alone'))
    np.testing.assert_allclose(ours['val_error'], theirs['val_error'], atol=0.6)  # one example of 200
    assert ours['device']['count'] == 2 * theirs['device']['count']
