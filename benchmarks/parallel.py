"""What each parallel mode costs: time, memory, bytes sent and the longest chain of dependent matrix products.

  python -m benchmarks.parallel

A residual MLP (Algorithm 1, gap 2), dense synapses, plain SGD, rule kp, for all cases but one:

- depth: one device, 8 and 64 blocks. How does memory grow with depth?
- devices: programs compiled for 8 simulated devices (not timed: the devices would share the machine's cores).
- readouts: a ResNet-18 whose output reads every block, group norm, the paper's scheme; programs compiled for 8
  simulated devices, and those of 1 device that stages divide among them.
- processes: one process on one core against two on one core each, talking over loopback.

`rec_lra stage` takes a batch whole. `rec_lra microbatched` is the same pipeline with as many microbatches as stages:
less idling while it fills, smaller matrix products. `rec_lra overlap` is this, of a wiring in which blocks hand their
own errors down. `rec_lra delayed` is one that never drains, with whole batches; its
facts are of a call, which takes 8 steps, but for the time. The methods of a case are timed in turn, round after round,
and medians taken. Writes results/parallel.json: the rows of all cases, and how each case was measured.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks.cases import replace_rows
from benchmarks.methods import Bench, Compiled
from benchmarks.workers import Workers
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.validate import lookup

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Times that each method is timed.', lower_bound=1)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of parallel.json.')
_CASES = flags.DEFINE_list(
    'cases',
    ['depth', 'devices', 'readouts', 'processes'],
    'Which of them to run; what the file has of the others stays.',
)

DEPTHS = (8, 64)
WIDE, NARROW = {'blocks': 8, 'width': 1024, 'batch': 64}, {'blocks': 8, 'width': 128, 'batch': 4096}
SKIPS = {'blocks': 0, 'width': 64, 'batch': 64}
SOLO = ('backprop plain', 'backprop remat', 'rec_lra plain', 'rec_lra stream')
SPREAD = ('rec_lra level', 'rec_lra stage', 'rec_lra microbatched')
DUO = ('backprop plain', 'rec_lra plain', *SPREAD, 'rec_lra delayed')

Row = dict[str, Any]
Facts = Mapping[str, Mapping[str, Any]]  # method -> what `hlo.describe` says


def depth_rows(rounds: int) -> list[Row]:
    """One device, 8 and 64 blocks."""
    rows = []
    for blocks in DEPTHS:
        bench = Bench(blocks, 256, 1024)
        methods = {name: Compiled(bench, name) for name in tqdm(SOLO, desc=f'compiling {blocks} blocks', disable=None)}
        runs = {name: method.run for name, method in methods.items()}
        (times,) = _time([runs], rounds)
        rows += _rows('depth', bench.sizes, {name: method.facts for name, method in methods.items()}, times)
    return rows


def device_rows(rounds: int) -> list[Row]:
    """Programs for 8 devices of one process."""
    del rounds
    rows = []
    for case, sizes in (('devices, wide', WIDE), ('devices, narrow', NARROW)):
        with Workers(sizes, (*SOLO, *SPREAD), [os.sched_getaffinity(0)], devices=8) as workers:
            rows += _rows(case, workers.sizes, workers.facts(), {})
    return rows


def readout_rows(rounds: int) -> list[Row]:
    """A ResNet-18 with readout skips, on one device and on 8."""
    del rounds
    rows = []
    for devices, methods in (
        (1, SOLO),
        (8, ('backprop plain', 'rec_lra plain', 'rec_lra stage', 'rec_lra microbatched', 'rec_lra overlap')),
    ):
        with Workers(SKIPS, methods, [os.sched_getaffinity(0)], devices=devices) as workers:
            rows += _rows('readouts', workers.sizes, workers.facts(), {})
    return rows


def process_rows(rounds: int) -> list[Row]:
    """One process on core 0 against two on cores 0 and 1, the wide layers and small batch."""
    cores = [{core} for core in sorted(os.sched_getaffinity(0))]
    if len(cores) < 2:
        raise ValueError('the case `processes` needs two cores')
    with Workers(WIDE, SOLO, cores[:1]) as solo, Workers(WIDE, DUO, cores[:2]) as duo:
        groups = (solo, duo)
        facts = [group.facts() for group in groups]
        runs = [{name: functools.partial(group.time, name) for name in group.methods} for group in groups]
        times = _time(runs, rounds)
    return [
        row
        for group, own, spent in zip(groups, facts, times, strict=True)
        for row in _rows('processes, wide', group.sizes, own, spent)
    ]


def _time(groups: Sequence[Mapping[str, Callable[[], float]]], rounds: int) -> list[dict[str, list[float]]]:
    """Milliseconds of each group's methods, after a round to warm up."""
    times: list[dict[str, list[float]]] = [{name: [] for name in group} for group in groups]
    for turn in tqdm(range(rounds + 1), desc='timing', unit='round', disable=None):
        for group, own in zip(groups, times, strict=True):
            for name, run in group.items():
                spent = run()
                if turn:
                    own[name].append(spent)
    return times


def _rows(case: str, sizes: Mapping[str, int], facts: Facts, times: Mapping[str, Sequence[float]]) -> list[Row]:
    """A row for each method; 'step_ms' is None where nothing was timed."""
    medians = {name: round(float(np.median(own)), 2) for name, own in times.items()}
    return [{'case': case, 'method': name, **sizes, 'step_ms': medians.get(name), **own} for name, own in facts.items()]


CASES = {'depth': depth_rows, 'devices': device_rows, 'readouts': readout_rows, 'processes': process_rows}


def main(argv: list[str]) -> None:
    """Runs the cases and prints a table."""
    del argv
    rounds = _ROUNDS.value
    chosen = {case: lookup(CASES, case, 'case') for case in _CASES.value}
    path = pathlib.Path(_RESULTS.value) / 'parallel.json'
    for case, measure in chosen.items():
        fresh = measure(rounds)
        replace_rows(path, case, fresh, {'rounds': rounds, **report.provenance('')})
        for row in fresh:
            print('  '.join(f'{value!s:>14}' for value in row.values()))


if __name__ == '__main__':
    cli.run(main)
