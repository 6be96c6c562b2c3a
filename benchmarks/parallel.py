"""What each parallel mode costs: time, memory, bytes sent and the longest chain of dependent matrix products.

  python -m benchmarks.parallel

A residual MLP (Algorithm 1, gap 2), plain SGD, rule kp, for three cases:

- depth: one device, 8 and 64 blocks. How does memory grow with depth?
- devices: programs compiled for 8 simulated devices (not timed: the devices would share the machine's cores).
- processes: one process on one core against two on one core each, talking over loopback.

`rec_lra stage` takes a batch whole. `rec_lra microbatched` is the same pipeline with as many microbatches as stages:
less idling while it fills, smaller matrix products. `rec_lra delayed` is one that never drains, with whole batches; its
facts are of a call, which takes 8 steps, but for the time. The methods of a case are timed in turn, round after round,
and medians taken. Writes results/parallel.json.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from tqdm import tqdm

import rlra_jax
from benchmarks import hlo
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.options import Options
from rlra_jax.parallel.blocks import over
from rlra_jax.parallel.distributed import join
from rlra_jax.parallel.level import level_update_fn
from rlra_jax.parallel.mesh import make_mesh, replicate, shard_batch
from rlra_jax.parallel.packing import Packing
from rlra_jax.parallel.stage import stage_step
from rlra_jax.parallel.stream import stream_step
from rlra_jax.types import Learner

_WORKER = os.environ.get('RLRA_BENCHMARK_WORKER')  # 'processes;rank;port' of one that this program started
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Times that each method is timed.', lower_bound=1)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of parallel.json.')
_CASES = flags.DEFINE_list(
    'cases', ['depth', 'devices', 'processes'], 'Which of them to run; rows of the others are kept.'
)

_RATE = 0.01
_STEPS = 8  # batches in a call of delayed steps
_ANSWER = 'answer: '  # tells a worker's answers from what Gloo prints
DEPTHS = (8, 64)
WIDE, NARROW = {'blocks': 8, 'width': 1024, 'batch': 64}, {'blocks': 8, 'width': 128, 'batch': 4096}


def _key() -> Any:
    """A key; made when needed, since the first one starts JAX."""
    return jax.random.key(0)


class Bench:
    """One model, batch and wiring, and the steps that the methods take."""

    def __init__(self, blocks: int, width: int, batch: int, devices: int = 1):
        self.sizes = {'blocks': blocks, 'width': width, 'batch': batch, 'devices': devices}
        self.model: Any = rlra_jax.nn.ResidualMLP(width=width, depth=2 * blocks, gap=2)
        rng = np.random.default_rng(0)
        self.batch: Any = {
            'image': rng.normal(size=(batch, 64)).astype(np.float32),
            'label': rng.integers(0, 10, batch).astype(np.int32),
        }
        self.x = jnp.zeros((batch, 64))
        self.wiring = rlra_jax.wire_blocks(rlra_jax.sites(self.model, self.x), rule='kp')
        # In NumPy, so that no method's donated state is another's too.
        self.variables = jax.device_get(jax.jit(self.model.init)(_key(), self.batch['image']))
        self.optimizers = optax.sgd(_RATE), optax.sgd(_RATE)

    def step(self, method: str) -> tuple[Callable[..., Any], Any, Any]:
        """(update, state, batch) of a method such as 'rec_lra stage'."""
        learner, _, mode = method.partition(' ')
        count = self.sizes['devices']
        staged_as = ('stage', 'microbatched', 'delayed')
        spread = 'stage' if mode in staged_as else 'level' if mode == 'level' else 'data'
        mesh = make_mesh(**{'data': 1, spread: count})  # type: ignore[arg-type]
        share = {name: x[self._mine(mesh)] for name, x in self.batch.items()}
        batch = shard_batch(mesh, share)
        if learner == 'backprop':
            update, state = self._backprop(remat=mode == 'remat')
        elif mode in staged_as:
            parts = count if mode == 'microbatched' else 1
            staged = stage_step(
                self.model, self.wiring, mesh, self.variables, self.x, *self.optimizers, microbatches=parts
            )
            update = _repeat(staged.delayed) if mode == 'delayed' else staged.update
            return update, staged.init(_key(), self.variables, self.batch), batch
        elif mode == 'stream':
            made = stream_step(self.model, self.wiring, self.variables, self.x, *self.optimizers)
            update, state = made.update, made.init(_key(), self.variables, self.batch)
        else:
            rec_lra = rlra_jax.LEARNERS['rec_lra'](self.model, self.x, wiring=self.wiring)
            if mode == 'level':
                rec_lra = Learner(rec_lra.init, level_update_fn(self.model, self.wiring, mesh))
            plain = rlra_jax.make_train_step(rec_lra, *self.optimizers)
            update, state = plain.update, plain.init(_key(), self.variables, self.batch)
        return update, replicate(mesh, state), batch

    def _mine(self, mesh: Any) -> slice:
        """Which examples are this process's: all of them where only stages are spread."""
        if mesh.shape['data'] * mesh.shape['level'] == 1:
            return slice(None)
        size = self.sizes['batch'] // jax.process_count()
        return slice(jax.process_index() * size, (jax.process_index() + 1) * size)

    def _backprop(self, *, remat: bool) -> tuple[Callable[..., Any], Any]:
        """Backprop of the same blocks, scanned over as the streaming update does; remat keeps what enters a block."""
        packing = Packing(self.model, self.wiring, self.variables, self.x, options=Options())
        edges = jax.eval_shape(lambda: rlra_jax.init_feedback(_key(), self.model, self.wiring, self.variables, self.x))
        held = packing.pack_held(self.variables, jax.tree.map(lambda a: jnp.zeros(a.shape), edges.synapses))
        params = tuple(h.params for h in held)

        def loss_fn(params: Any, batch: Any) -> Any:
            z = batch['image']
            for run, stacked in zip(packing.runs, params, strict=True):

                def body(z: Any, params: Any, run: Any = run) -> Any:
                    return _block(z, params, run[0].params, skip=len(run) > 1)

                z = over(run, jax.checkpoint(body) if remat else body, z, stacked)
            return optax.softmax_cross_entropy_with_integer_labels(z, batch['label']).mean()

        def update(params: Any, batch: Any, key: Any) -> Any:
            del key
            loss, grads = jax.value_and_grad(loss_fn)(params, batch)
            return jax.tree.map(lambda p, g: p - _RATE * g, params, grads), loss

        return update, params


def _block(z: Any, params: Any, paths: Sequence[str], *, skip: bool) -> Any:
    """One block of the residual MLP, without Sites: (kernel, bias) of one layer after the other."""
    entering = z
    layers = list(zip(paths[::2], paths[1::2], strict=True))
    for i, (kernel, bias) in enumerate(layers):
        h = z @ params[kernel] + params[bias]
        if skip and i == len(layers) - 1:
            h = h + entering
        z = h if kernel.startswith('readout') else jnp.tanh(h)
    return z


def _repeat(delayed: Callable[..., Any]) -> Callable[..., Any]:
    """Delayed steps, with the same batch in each."""

    def update(state: Any, batch: Any, key: Any) -> Any:
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (_STEPS, *x.shape)), batch)
        return delayed(state, many, jax.random.split(key, _STEPS))

    return update


class Timed:
    """A compiled method with its state."""

    def __init__(self, bench: Bench, method: str):
        self.at_once = _STEPS if method.endswith('delayed') else 1  # steps of a call
        update, self.state, self.batch = bench.step(method)
        jitted = jax.jit(update, donate_argnums=0)
        self.compiled = jitted.lower(self.state, self.batch, _key()).compile()
        self.facts = hlo.describe(self.compiled)  # of a call

    def run(self, steps: int = 1) -> float:
        """Milliseconds a step, of a number of steps that calls divide."""
        start = time.perf_counter()
        for _ in range(steps // self.at_once):
            self.state, out = self.compiled(self.state, self.batch, _key())
        jax.block_until_ready((self.state, out))
        return 1000 * (time.perf_counter() - start) / steps


def _row(case: str, method: str, bench: Bench, facts: Any, times: Sequence[float] | None) -> dict[str, Any]:
    step_ms = round(float(np.median(times)), 2) if times else None
    return {'case': case, 'method': method, **bench.sizes, 'step_ms': step_ms, **facts}


def depth_rows(rounds: int) -> list[dict[str, Any]]:
    """One device, 8 and 64 blocks."""
    rows = []
    for blocks in DEPTHS:
        bench = Bench(blocks, 256, 1024)
        names = ('backprop plain', 'backprop remat', 'rec_lra plain', 'rec_lra stream')
        methods = {name: Timed(bench, name) for name in tqdm(names, desc=f'compiling {blocks} blocks', disable=None)}
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds + 1):
            for name, method in methods.items():
                spent = method.run()
                if turn:  # the first is a warm-up
                    times[name].append(spent)
        rows += [_row('depth', name, bench, methods[name].facts, times[name]) for name in names]
    return rows


def device_rows() -> list[dict[str, Any]]:
    """Compiled for the 8 simulated devices that this process was started with."""
    rows = []
    names = (*SOLO, 'rec_lra level', 'rec_lra stage', 'rec_lra microbatched')
    for case, sizes in (('devices, wide', WIDE), ('devices, narrow', NARROW)):
        bench = Bench(**sizes, devices=8)
        rows += [
            _row(case, name, bench, Timed(bench, name).facts, None) for name in tqdm(names, desc=case, disable=None)
        ]
    return rows


SOLO = ('backprop plain', 'backprop remat', 'rec_lra plain', 'rec_lra stream')
DUO = (
    'backprop plain',
    'rec_lra plain',
    'rec_lra level',
    'rec_lra stage',
    'rec_lra microbatched',
    'rec_lra delayed',
)


def process_rows(rounds: int) -> list[dict[str, Any]]:
    """One process on core 0 against two on cores 0 and 1, the wide layers and small batch."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ValueError('the case `processes` needs two cores')
    port = 20000 + os.getpid() % 20000
    solo = [_start(cores[0], '1;0;0')]
    duo = [_start(cores[rank], f'2;{rank};{port}') for rank in range(2)]
    try:
        facts = {id(group): json.loads(_ask(group, 'facts')[0]) for group in (solo, duo)}
        times: dict[tuple[int, str], list[float]] = {}
        for turn in range(rounds + 1):
            for group, names in ((solo, SOLO), (duo, DUO)):
                for name in names:
                    spent = max(map(float, _ask(group, name)))
                    if turn:
                        times.setdefault((len(group), name), []).append(spent)
    finally:
        for process in (*solo, *duo):
            process.stdin.close()
        for process in (*solo, *duo):  # which leave together
            process.wait()
    rows = []
    for group, names in ((solo, SOLO), (duo, DUO)):
        sizes = {**WIDE, 'devices': len(group)}
        for name in names:
            step_ms = round(float(np.median(times[len(group), name])), 2)
            rows.append(
                {'case': 'processes, wide', 'method': name, **sizes, 'step_ms': step_ms, **facts[id(group)][name]}
            )
    return rows


def _start(core: int, place: str) -> Any:
    """A worker on one core."""
    environment = {**os.environ, 'RLRA_BENCHMARK_WORKER': place, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
    return subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.parallel'],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def _ask(group: Sequence[Any], line: str) -> list[str]:
    for process in group:
        print(line, file=process.stdin, flush=True)
    # Gloo's own prints, of another buffer, may stand before an answer in its line.
    return [next(said for said in process.stdout if _ANSWER in said).partition(_ANSWER)[2] for process in group]


def work(place: str) -> None:
    """A worker: answers 'facts', then the name of a method with its milliseconds a step."""
    count, rank, port = map(int, place.split(';'))
    if count > 1:
        join(f'127.0.0.1:{port}', count, rank)
    bench = Bench(**WIDE, devices=count)
    methods = {name: Timed(bench, name) for name in (SOLO if count == 1 else DUO)}
    for line in sys.stdin:
        name = line.strip()
        if name == 'facts':
            answer: Any = json.dumps({k: m.facts for k, m in methods.items()})
        else:
            methods[name].run(_STEPS)  # what other methods left in the caches
            answer = methods[name].run(2 * _STEPS)
        print(f'{_ANSWER}{answer}', flush=True)


def main(argv: list[str]) -> None:
    """Runs the cases and prints a table."""
    del argv
    rows = []
    if 'depth' in _CASES.value:
        rows += depth_rows(_ROUNDS.value)
    if 'devices' in _CASES.value:
        environment = {**os.environ, 'RLRA_BENCHMARK_DEVICES': '1', 'JAX_PLATFORMS': 'cpu'}
        environment['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
        done = subprocess.run(
            [sys.executable, '-m', 'benchmarks.parallel'],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows += json.loads(done.stdout)
    if 'processes' in _CASES.value:
        rows += process_rows(_ROUNDS.value)
    rows = [{**row, 'rounds': _ROUNDS.value} for row in rows]
    path = pathlib.Path(_RESULTS.value) / 'parallel.json'
    before = json.loads(path.read_text())['rows'] if path.exists() else []
    kept = [row for row in before if row['case'].partition(',')[0] not in _CASES.value]
    report.write_json(path, {'rows': kept + rows, **report.provenance('')})
    for row in rows:
        print('  '.join(f'{row[key]!s:>14}' for key in row))


if __name__ == '__main__':
    if _WORKER:
        work(_WORKER)
    elif os.environ.get('RLRA_BENCHMARK_DEVICES'):
        print(json.dumps(device_rows()))
    else:
        cli.run(main)
