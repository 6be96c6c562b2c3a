"""Starts N processes of one program on this machine's CPU, as a pod would start them on its hosts.

  python -m launch.local_pod 2 tests/parallel/two_processes.py

The program receives --coordinator, --num_processes and --process_id besides its own arguments, and hands them to
`rlra_jax.parallel.distributed.join`. `--devices=2` before N simulates two devices in each process. SIGINT and SIGTERM
are handed on to all of them; a second one kills them. Under Linux they also end if this program is killed.
"""

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the first exit status that is not 0, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--devices', type=int, default=1, help='simulated devices in each process')
    parser.add_argument('processes', type=int, help='N')
    parser.add_argument('program', help='a module such as launch.train, or the path of a .py file')
    parser.add_argument('arguments', nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if options.processes < 1 or options.devices < 1:
        parser.error('processes and devices must be at least 1')
    program = [options.program] if options.program.endswith('.py') else ['-m', options.program]
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={options.devices}'
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
    shared = [f'--coordinator=127.0.0.1:{_free_port()}', f'--num_processes={options.processes}']
    processes = [
        subprocess.Popen(
            [sys.executable, *program, *options.arguments, *shared, f'--process_id={rank}'],
            env=environment,
            start_new_session=True,  # so that Ctrl-C in a terminal comes once, from here
            preexec_fn=_end_with_parent if sys.platform == 'linux' else None,
        )
        for rank in range(options.processes)
    ]
    try:
        return _wait(processes, _hand_on_signals(processes))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """Has Linux kill this process when its parent is gone, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _hand_on_signals(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """The signals that came, a list that grows; a second one ends this program."""
    came: list[int] = []

    def hand_on(number: int, _: object) -> None:
        if came:
            sys.exit(128 + number)
        came.append(number)
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    return came


def _wait(processes: Sequence[subprocess.Popen[bytes]], came: Sequence[int]) -> int:
    """The first exit status that is not 0, as soon as there is one: the others may wait for that process for ever.

    But after a signal all have the time to save.
    """
    while True:
        states = [process.poll() for process in processes]
        failed = [(rank, state) for rank, state in enumerate(states) if state]
        if failed and not came:
            print(
                'local_pod: process {} ended with status {}; the others are stopped'.format(*failed[0]), file=sys.stderr
            )
        if None not in states or (failed and not came):
            status = failed[0][1] if failed else 0
            return status if status >= 0 else 128 - status  # -9 is a kill, of which shells say 137
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


if __name__ == '__main__':
    sys.exit(main())
