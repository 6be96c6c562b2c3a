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
    told = re.findall(r'process (\d) stopped after step (\d+) of 24 in epoch 1; .*?from there', finished.stdout)
    assert sorted(process for process, _ in told) == ['0', '1']  # two may come in one line
    assert {path.name for path in (tmp_path / 'moments').iterdir()} == {step for _, step in told}


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


@pytest.mark.full
@pytest.mark.parametrize('read_as', [lambda data: data, helpers.kept], ids=['scanned', 'stepwise'])
def test_training_stops_within_an_epoch(tmp_path, monkeypatch, read_as):
    """Long epochs would outlive what a cluster grants. The Run that the epoch began with is saved, too."""
    seeds = 2 if read_as is not helpers.kept else 1
    config = helpers.make_config(num_seeds=seeds, epochs=3, batch_size=20, checkpoint_every=3)
    data = read_as(first_examples(load('digits'), 300))
    whole = train(config, tmp_path / 'whole', data)
    ask, times = stops.Watch.asked, []

    def hear(self, done):
        times.append(done)
        if len(times) > 15 and done == 7:  # in epoch 2
            stops._heard.set()
        return ask(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(stops, '_heard', threading.Event())
        patch.setattr(stops, '_GROWTH', 1)  # ask after every step
        patch.setattr(stops.Watch, 'asked', hear)
        with pytest.raises(stops.StoppedError, match=r'stopped after step 7 of 15 in epoch 2; the same command'):
            train(config, tmp_path / 'stopped', data)
    assert os.listdir(tmp_path / 'stopped' / 'moments') == [str(15 + 7)]
    assert os.listdir(tmp_path / 'stopped' / 'checkpoints') == ['1']
    assert train(config, tmp_path / 'stopped', data)['per_seed'] == whole['per_seed']
    tables = [read_metrics(tmp_path / name / 'metrics.csv') for name in ('whole', 'stopped')]
    losses = [[row['train_loss'] for row in rows] for rows in tables]
    assert losses[0] == losses[1]


def test_a_watch_asks_every_few_seconds(monkeypatch):
    """Sooner at first, and after every step where steps are long."""
    clock = [0.0]
    monkeypatch.setattr(stops.time, 'perf_counter', lambda: clock[0])
    for seconds, intervals in ((0.125, [1, 4, 16, 16]), (32.0, [1, 1, 1])):
        watch, done = stops.Watch(), 0
        watch.begin(done)
        for interval in intervals:
            assert watch.next == done + interval
            done += interval
            clock[0] += interval * seconds
            assert not watch.asked(done)
