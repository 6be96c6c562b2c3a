"""All that wants a GPU, in pieces: what is most wanted first, until the minutes are over. Call it again to go on.

  python -m benchmarks.gpu --pack=FOLDER              # where TFDS is installed: CIFAR-10 as a file of 56 MB
  python -m benchmarks.gpu --data=FOLDER --minutes=8  # where the GPU is
  python -m benchmarks.gpu --list                     # what is done and what is left

Each task is a command of its own, which is stopped when the time is over: trainings go on from their checkpoints in
--runs, other tasks begin anew. What is finished stands in results/gpu.json, its figures where the commands write them.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from absl import app, flags

from configs import cifar10_strong, table2a, table2b
from launch import cli
from rlra_jax.experiment import report, stops
from rlra_jax.experiment.data import pack_dataset

_MINUTES = flags.DEFINE_float('minutes', 8, 'How long a call may take.', lower_bound=0)
_LIST = flags.DEFINE_boolean('list', False, 'Only tell the tasks, and which are done.')
_PACK = flags.DEFINE_string('pack', '', 'Only write cifar10.npz into this folder.')
_DATA = flags.DEFINE_string('data', '', 'A folder with cifar10.npz, or of prepared TFDS sets; empty: $RLRA_DATA_DIR.')
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of gpu.json and of what the tasks write.')
_RUNS = flags.DEFINE_string('runs', 'runs', 'Folder of the workdirs of trainings.')
DEPTH = {  # as docs/parallel.md quotes them
    'resnet': ('--batch=2048', '--most_blocks=256', '--limit_mb=60000'),
    'mlp': ('--batch=32768', '--most_blocks=1024', '--limit_mb=60000'),
}
_GRACE = 45.0  # seconds of the call that a task gets to save what it has and to end


def tasks() -> dict[str, list[str]]:
    """{name: what follows `python -m`}, the most wanted first."""
    to, runs = f'--results={_RESULTS.value}', f'--runs={_RUNS.value}'

    def trained(name: str, experiment: Any) -> dict[str, list[str]]:
        shared = ['launch.reproduce', f'--experiment={name}', to, runs]
        rows = [row['name'] for row in experiment.rows()]
        return {f'{name} {row}': [*shared, f'--rows={row}'] for row in rows}

    return {
        **trained('cifar10_strong', cifar10_strong),
        'resnet': ['benchmarks.resnet', to],
        **trained('table2a', table2a),
        **trained('table2b', table2b),
        **{f'depth {model}': ['benchmarks.depth', f'--models={model}', *DEPTH[model], to] for model in DEPTH},
    }


def attempt(command: list[str], seconds: float) -> int | None:
    """The exit status of a command under Python; None if it was asked to stop: its time was over, or a signal came."""
    process = subprocess.Popen([sys.executable, '-m', *command], start_new_session=True)  # signals come once, from here
    end = time.monotonic() + max(seconds - _GRACE, 1)
    with stops.training():
        while time.monotonic() < end and not stops.heard():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(1)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return None


def work(waiting: Mapping[str, list[str]], path: pathlib.Path, seconds: float) -> dict[str, str]:
    """Tries tasks, one after the other, as long as there is time.

    Args:
      waiting: {name: command}.
      path: of the file that gets a row for each that is finished.
      seconds: for all of them.

    Returns:
      {name: why it is left} of those that are.
    """
    end, left = time.monotonic() + seconds, dict.fromkeys(waiting, 'no time')
    for name, command in waiting.items():
        start = time.monotonic()
        if end - start <= _GRACE:
            break
        status = attempt(command, end - start)
        if status == 0:
            del left[name]
            took = time.monotonic() - start
            row = {'task': name, 'command': command, 'seconds': took, 'code_sha256': report.code_sha256()}
            report.write_json(path, {'rows': [*finished(path), row]})
        elif status is not None:
            left[name] = f'failed with status {status}'
        else:
            left[name] = 'stopped'
        if stops.heard():
            break
    return left


def finished(path: pathlib.Path) -> list[dict[str, Any]]:
    """A row for each task that is done."""
    return report.read_json(path, ['rows'])['rows'] if path.exists() else []


def main(argv: list[str]) -> None:
    """Works for a while, and tells what is left."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}')
    if _PACK.value:
        file = pathlib.Path(_PACK.value) / 'cifar10.npz'
        pack_dataset('cifar10', file, _DATA.value or None)
        print(f'{file}: {file.stat().st_size / 1e6:.0f} MB')
        return
    if _DATA.value:
        os.environ['RLRA_DATA_DIR'] = _DATA.value  # tasks inherit it
    path, every = pathlib.Path(_RESULTS.value) / 'gpu.json', tasks()
    done = {row['task'] for row in finished(path)}
    if _LIST.value:
        left = dict.fromkeys(every.keys() - done, 'waiting')
    else:
        waiting = {name: command for name, command in every.items() if name not in done}
        left = work(waiting, path, 60 * _MINUTES.value)
    for name in every:
        print(f'{name:60} {left.get(name, "done")}')
    print(f'{len(left)} of {len(every)} tasks are left')
    if stops.heard():
        raise stops.StoppedError('stopped; the same command goes on')


if __name__ == '__main__':
    cli.run(main)
