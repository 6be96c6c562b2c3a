"""Stops asked for by a signal."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import helpers
import pytest

from rlra_jax.experiment import stops
from rlra_jax.experiment.data import first_examples, load
from rlra_jax.experiment.metrics import MetricsLog, read_metrics
from rlra_jax.experiment.stepwise import Pace
from rlra_jax.experiment.train import train

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
LISTEN = 'import os, signal, time\nfrom rlra_jax.experiment import stops\nstops.listen()\n'
SLEEP = 'time.sleep(900)\n'
OTHER = 'signal.signal(signal.SIGUSR1, lambda *_: None)\nos.kill(os.getpid(), signal.SIGUSR1)\n'  # means nothing


def program(script):
    """Its process, of which all is read at its end."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run([sys.executable, '-c', LISTEN + script], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_where_there_is_nothing_to_save_a_signal_ends_the_process_at_once(name):
    finished = program(f'{OTHER}os.kill(os.getpid(), signal.{name})\n{SLEEP}')
    assert finished.returncode == stops.STATUS == 75
    assert finished.stderr == f'stopped by {name}; the same command goes on\n'


def test_in_training_the_second_signal_ends_the_process_at_once():
    """Even while the main thread runs no handlers, as one that waits for a device."""
    finished = program(
        'import threading\n'
        'def send():\n'
        '  os.kill(os.getpid(), signal.SIGTERM)\n'
        '  stops._heard.wait()\n'
        '  os.kill(os.getpid(), signal.SIGINT)\n'
        'with stops.training():\n'
        '  threading.Thread(target=send).start()\n'
        '  signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])\n'
        f'  {SLEEP}'
    )
    assert finished.returncode == 128 + signal.SIGINT
    first, last = finished.stderr.splitlines()
    assert first == 'SIGTERM: training saves and stops at its next step or epoch; a second signal stops it at once'
    assert last == 'SIGINT again: stopped at once; the same command goes on from the last checkpoint'


def test_all_processes_stop_though_one_alone_hears(tmp_path):
    """Together, within an epoch, and with a Moment. jax.distributed would take SIGTERM for itself."""
    command = [sys.executable, '-m', 'launch.local_pod', '2', HERE / 'two_that_stop.py', tmp_path]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')])}
    finished = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    where = 'stopped after step 20 of 24 in epoch 1; the same command goes on from there'
    told = re.findall(r'process \d .*?from there', finished.stdout)  # two may come in one line
    assert sorted(told) == [f'process 0 {where}', f'process 1 {where}']
    assert [path.name for path in (tmp_path / 'moments').iterdir()] == ['20']


def stop_in_epoch(number, monkeypatch):
    """Lets a signal come just before an epoch's metrics are written."""
    write = MetricsLog.write

    def written(self, epoch, *args):
        if epoch == number:
            stops._heard.set()
        write(self, epoch, *args)

    monkeypatch.setattr(stops, '_heard', threading.Event())
    monkeypatch.setattr(MetricsLog, 'write', written)


def test_training_stops_after_an_epoch_and_goes_on(tmp_path, monkeypatch):
    """Also one whose checkpoints are rarer."""
    config, data = helpers.make_config(checkpoint_every=3), first_examples(load('digits'), 240)
    whole = train(config, tmp_path / 'whole', data)
    with monkeypatch.context() as patch:
        stop_in_epoch(2, patch)
        with pytest.raises(stops.StoppedError, match='stopped after epoch 2 of 4; the same command goes on from there'):
            train(config, tmp_path / 'stopped', data)
    assert (tmp_path / 'stopped' / 'checkpoints' / '2').is_dir()
    assert train(config, tmp_path / 'stopped', data)['per_seed'] == whole['per_seed']
    assert [row['epoch'] for row in read_metrics(tmp_path / 'stopped' / 'metrics.csv')] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_training_stops_within_an_epoch_where_it_keeps_moments(tmp_path, monkeypatch):
    config = helpers.make_config(num_seeds=1, epochs=2, batch_size=50, checkpoint_steps=5)
    data = helpers.kept(first_examples(load('digits'), 300))
    whole = train(config, tmp_path / 'whole', data)
    wait, waits = Pace.wait, []

    def count(self, result):
        waits.append(result)
        if len(waits) == 3:
            stops._heard.set()
        wait(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(stops, '_heard', threading.Event())
        patch.setattr(Pace, 'wait', count)
        with pytest.raises(stops.StoppedError, match='stopped after step 3 of 6 in epoch 1; the same command'):
            train(config, tmp_path / 'stopped', data)
    assert [path.name for path in (tmp_path / 'stopped' / 'moments').iterdir()] == ['3']
    assert train(config, tmp_path / 'stopped', data)['per_seed'] == whole['per_seed']
