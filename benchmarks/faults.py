"""Training that is killed again and again, against training that is not: the same bits in the end.

  python -m benchmarks.faults
  python -m benchmarks.faults --kills=2 --processes=1

Runs of `launch.train` on digits, in one process and in two (`launch.local_pod`), are killed (SIGKILL) at random
moments, a fifth of them while the program starts, and, as often as --while_writing says, as soon as a checkpoint is
being written after such a moment. The same command then goes on, until the run has finished; further runs follow until
all kills are done. Each must end at the arrays and metrics of one that nobody killed, and no start may lose an epoch
that had its checkpoint. Writes results/faults.json.
"""

import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import psutil
from absl import flags
from tqdm import tqdm

from benchmarks.cases import replace_rows
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.data import load
from rlra_jax.experiment.metrics import read_metrics
from rlra_jax.experiment.watch import FIELDS as WATCHED

_KILLS = flags.DEFINE_integer('kills', 50, 'For each number of processes.', lower_bound=1)
_WHILE_WRITING = flags.DEFINE_integer('while_writing', 20, 'Of these, while a checkpoint is written.', lower_bound=0)
_PROCESSES = flags.DEFINE_list('processes', ['1', '2'], 'Numbers of processes.')
_EPOCHS = flags.DEFINE_integer('epochs', 150, 'Of a run.', lower_bound=2)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of faults.json.')
_START, _EPOCH = 10.0, 0.1  # seconds: about what a start takes, and more than an epoch
_TMP = '*.orbax-checkpoint-tmp*'  # what is being written


class Started(NamedTuple):
    """A run under way."""

    process: subprocess.Popen[bytes]
    workdir: pathlib.Path
    log: pathlib.Path

    @property
    def checkpoints(self) -> pathlib.Path:
        """Its folder."""
        return self.workdir / 'checkpoints'

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is half written."""
        return any(self.checkpoints.glob(_TMP))


def start(workdir: pathlib.Path, processes: int, epochs: int) -> Started:
    """Starts the command that trains there, or goes on."""
    pod = ['launch.local_pod', str(processes)] if processes > 1 else []
    config = f'--config=configs/digits.py:model.widths=(64,64),num_seeds=1,batch_size=48,epochs={epochs}'
    program = ['launch.train', config, '--config.checkpoint_every=1', f'--workdir={workdir}']
    log = workdir.with_suffix('.log')
    with log.open('wb') as file:
        process = subprocess.Popen([sys.executable, '-m', *pod, *program], stdout=file, stderr=file)
    return Started(process, workdir, log)


def finish(run: Started) -> None:
    """Waits for the end of a run, which must be a good one."""
    if run.process.wait():
        raise RuntimeError(f'{run.workdir} ended with status {run.process.returncode}:\n{run.log.read_text()}')


def kill(run: Started, epochs: int, while_writing: bool, draw: random.Random) -> bool | None:
    """Kills one of a run's processes at a random moment of its start, or within so many epochs more.

    Args:
      run: the one.
      epochs: 0 for the start.
      while_writing: as soon as a checkpoint is written after that moment.
      draw: draws the moment.

    Returns:
      Whether a checkpoint was half written then; None if the run was over before.
    """
    at = last_saved(run) + draw.randint(1, epochs) if epochs else 0
    end = None
    while end is None or time.perf_counter() < end or (while_writing and not run.writing):
        if run.process.poll() is not None:
            return None
        if end is None and last_saved(run) >= at:
            end = time.perf_counter() + draw.uniform(0, _EPOCH if epochs else _START)
            first = psutil.Process(run.process.pid)
            processes = [first, *first.children()]  # to look for them later would take longer than to write
    victim, writing = draw.choice(processes), run.writing
    victim.kill()
    run.process.wait()
    psutil.wait_procs(processes)
    return writing


def last_saved(run: Started) -> int:
    """The last epoch with a checkpoint; 0 for none."""
    return max((int(path.name) for path in run.checkpoints.glob('[0-9]*') if path.name.isdecimal()), default=0)


def resumed_after(run: Started) -> int:
    """The epoch after which a run says that it went on; 0 if it began anew."""
    found = re.search(r'resuming after epoch (\d+)', run.log.read_text())
    return int(found.group(1)) if found else 0


def outcome(workdir: pathlib.Path) -> tuple[dict[str, bytes], list[dict[str, Any]], Any]:
    """(every array of the last checkpoint, the metrics but for times and memory, errors) of a finished run."""
    last = max((workdir / 'checkpoints').glob('[0-9]*'), key=lambda path: int(path.name))
    with np.load(last / 'leaves.npz') as leaves:
        arrays = {name: leaves[name].tobytes() for name in leaves}
    varying = {'seconds', *WATCHED}
    rows = [{n: v for n, v in row.items() if n not in varying} for row in read_metrics(workdir / 'metrics.csv')]
    return arrays, rows, json.loads((workdir / 'result.json').read_text())['per_seed']


def measure(
    folder: pathlib.Path, processes: int, kills: int, while_writing: int, epochs: int
) -> Iterator[dict[str, Any]]:
    """Kills runs of so many processes, and compares what they come to; a row after each run, of all so far."""
    finish(start(folder / 'whole', processes, epochs))
    whole, draw = outcome(folder / 'whole'), random.Random(processes)
    bar = tqdm(total=kills, desc=f'{processes} processes', disable=None)
    row: dict[str, Any] = {'case': f'{processes} processes', 'kills': 0, 'while_writing': 0, 'epochs_lost': 0}
    row |= {'runs': 0, 'runs_identical': 0}
    while row['kills'] < kills:
        workdir, saved, killed = folder / f'killed_{row["runs"]}', 0, True
        while killed:
            run, chance = start(workdir, processes, epochs), draw.random()
            aimed = row['while_writing'] < while_writing and chance < 0.5
            ahead = 0 if chance > 0.8 else epochs // 4
            writing = kill(run, ahead, aimed, draw) if row['kills'] < kills else None
            if not (killed := writing is not None):
                finish(run)
            if 'compiling took' in run.log.read_text():
                row['epochs_lost'] += max(saved - resumed_after(run), 0)
            saved = last_saved(run)
            row['kills'] += killed
            row['while_writing'] += bool(ahead and writing)  # what is left as it starts is of the kill before
            bar.update(killed)
        row['runs'] += 1
        row['runs_identical'] += outcome(workdir) == whole
        shutil.rmtree(workdir)
        yield row


def main(argv: list[str]) -> None:
    """Measures, and prints a row for each number of processes."""
    del argv
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{folder}/compiled')
        os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
        measured = {'epochs': _EPOCHS.value, **report.provenance(load('digits').sha256)}
        for count in _PROCESSES.value:
            place = pathlib.Path(folder, count)
            place.mkdir()
            for row in measure(place, int(count), _KILLS.value, _WHILE_WRITING.value, _EPOCHS.value):
                replace_rows(pathlib.Path(_RESULTS.value) / 'faults.json', row['case'], [row], measured)
            print(json.dumps(row))


if __name__ == '__main__':
    cli.run(main)
