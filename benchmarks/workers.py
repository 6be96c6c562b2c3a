"""Processes that hold compiled methods, and tell their facts and their times when asked.

`Workers` starts them; each is a `python -m benchmarks.workers JOB`, which answers line by line.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence, Set
from typing import Any

from tqdm import tqdm

from benchmarks.methods import STEPS, Bench, Compiled
from rlra_jax.parallel.distributed import join

_ANSWER = 'answer: '  # tells a worker's answers from what Gloo prints


class Workers:
    """Processes whose devices, taken together, run every method of one benchmark."""

    def __init__(self, sizes: dict[str, int], methods: Sequence[str], cores: Sequence[Set[int]], devices: int = 1):
        """Starts a process for each set of cores, with so many simulated devices each.

        Args:
          sizes: blocks, width and batch.
          methods: names that `Bench.step` knows.
          cores: which cores each process may use.
          devices: of each process.
        """
        self.methods, self.sizes = methods, {**sizes, 'devices': len(cores) * devices}
        job = {'sizes': self.sizes, 'methods': methods, 'processes': len(cores), 'port': 20000 + os.getpid() % 20000}
        jobs = [{**job, 'rank': rank, 'cores': sorted(own)} for rank, own in enumerate(cores)]
        self._processes = [_start(job, devices) for job in jobs]

    def __enter__(self) -> 'Workers':
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.stdin.close()
        for process in self._processes:  # which leave together
            process.wait()
            process.stdout.close()

    def facts(self) -> dict[str, dict[str, Any]]:
        """Method -> what `hlo.describe` says of a call."""
        return json.loads(self._ask('facts')[0])

    def time(self, method: str) -> float:
        """Milliseconds a step, of the slowest process."""
        return max(map(float, self._ask(method)))

    def _ask(self, line: str) -> list[str]:
        for process in self._processes:
            print(line, file=process.stdin, flush=True)
        # Gloo's own prints, of another buffer, may stand before an answer in its line.
        return [
            next(said for said in process.stdout if _ANSWER in said).partition(_ANSWER)[2]
            for process in self._processes
        ]


def _start(job: dict[str, Any], devices: int) -> Any:
    flags = f'--xla_force_host_platform_device_count={devices}'
    return subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.workers', json.dumps(job)],
        env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def work(job: dict[str, Any]) -> None:
    """A worker: answers 'facts', then the name of a method with its milliseconds a step."""
    os.sched_setaffinity(0, job['cores'])  # before JAX starts its threads
    if job['processes'] > 1:
        join(f'127.0.0.1:{job["port"]}', job['processes'], job['rank'])
    bench = Bench(**job['sizes'])
    names = tqdm(job['methods'], desc=f'compiling for {bench.sizes["devices"]} devices', disable=job['rank'] or None)
    methods = {name: Compiled(bench, name) for name in names}
    for line in sys.stdin:
        name = line.strip()
        if name == 'facts':
            answer: Any = json.dumps({name: method.facts for name, method in methods.items()})
        else:
            methods[name].run(STEPS)  # what other methods left in the caches
            answer = methods[name].run(2 * STEPS)
        print(f'{_ANSWER}{answer}', flush=True)


if __name__ == '__main__':
    work(json.loads(sys.argv[1]))
