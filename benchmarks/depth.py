"""The deepest residual networks that train in a device's memory: backprop, backprop with remat, streaming rec-LRA.

  python -m benchmarks.depth                   # on a GPU: within its memory
  python -m benchmarks.depth --limit_mb=512    # within so much

All blocks are equal and run in a loop, float32, SGD, the state donated. Memory is what the compiler plans for a step:
it grows by the same amount from block to block, so two compiled depths tell the deepest. That depth, or --most_blocks
if memory would hold more than anybody waits for, is then compiled itself, and takes a step on random images from
weights of zero, or the next depth that does. Writes results/depth.json.
"""

import pathlib
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from tqdm import tqdm

import rlra_jax
from benchmarks.cases import replace_rows
from benchmarks.yardstick import backprop_update
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.parallel.packing import Packing
from rlra_jax.parallel.stream import stream_step
from rlra_jax.recursion.options import Options
from rlra_jax.validate import lookup

_LIMIT = flags.DEFINE_integer('limit_mb', 0, 'Memory in MB (1e6 bytes); 0: what the device has.', lower_bound=0)
_MODELS = flags.DEFINE_list('models', ['mlp', 'resnet'], 'Which of them; what the file has of the other stays.')
_WIDTH = flags.DEFINE_integer('width', 2048, 'Units of a layer of the MLP.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 1024, 'Examples in a step.', lower_bound=1)
_MOST = flags.DEFINE_integer('most_blocks', 1024, 'No more blocks than so many are tried.', lower_bound=1)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of depth.json.')
_RATE = 0.01
_KEY = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
METHODS = ('backprop plain', 'backprop remat', 'rec_lra stream')


def make_model(name: str, blocks: int) -> tuple[Any, Any]:
    """(a network of so many equal residual blocks, the shape of its input)."""
    models = {
        'mlp': (rlra_jax.nn.ResidualMLP(width=_WIDTH.value, depth=2 * blocks, gap=2), (784,)),
        'resnet': (
            rlra_jax.nn.ResNet18(classes=10, blocks=(blocks,), norm='group', phi=jax.nn.relu),
            (32, 32, 3),
        ),
    }
    model, shape = lookup(models, name, 'model')
    return model, jax.ShapeDtypeStruct((_BATCH.value, *shape), jnp.float32)


def make_step(name: str, blocks: int, method: str) -> tuple[Callable[..., Any], Any, Any]:
    """(update, the shapes of its state, those of a batch)."""
    model, x = make_model(name, blocks)
    batch = {'image': x, 'label': jax.ShapeDtypeStruct((len(x),), jnp.int32)}
    net = rlra_jax.regions(model, batch)
    rule = rlra_jax.KolenPollack()
    if name == 'mlp':
        wiring = rlra_jax.wire_blocks(net, kind=rlra_jax.Dense(), rule=rule)
    else:
        wiring = rlra_jax.wire_modules(net, kind=rlra_jax.kind_pooled, rule=rule)
    if method == 'rec_lra stream':
        step = stream_step(net, wiring, rlra_jax.optimizers(optax.sgd(_RATE), optax.sgd(_RATE)))
        return step.update, jax.eval_shape(step.init, _KEY), batch
    packing = Packing(net, wiring, options=Options())
    held = jax.eval_shape(packing.pack_held, packing.weights, packing.state.collections)
    update = backprop_update(packing, _RATE, remat=method.endswith('remat'))
    return update, tuple(h.params for h in held), batch


def compile_step(name: str, blocks: int, method: str) -> tuple[Any, int, Any]:
    """(the compiled step, its bytes, (state, batch) as shapes)."""
    update, state, batch = make_step(name, blocks, method)
    compiled = jax.jit(update, donate_argnums=0).lower(state, batch, _KEY).compile()
    plan: Any = compiled.memory_analysis()
    size = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    return compiled, size, (state, batch)


def plan(name: str, method: str, limit: int) -> dict[str, Any]:
    """The row of one model and method, as far as two small depths tell it."""
    (_, few, _), (_, more, _) = (compile_step(name, blocks, method) for blocks in (8, 16))
    fits = max(int(8 + (limit - few) / ((more - few) / 8)), 1)
    return {
        'case': name,
        'width': make_model(name, 1)[0].width,
        'method': method,
        'blocks': min(fits, _MOST.value),
        'blocks_that_memory_holds': fits,
        'bytes_per_block': (more - few) // 8,
    }


def try_out(row: dict[str, Any], limit: int) -> dict[str, Any]:
    """The row with the deepest network that took a step, its bytes and the seconds of a second step."""
    blocks = row['blocks']
    while True:
        compiled, size, shapes = compile_step(row['case'], blocks, row['method'])
        seconds = _step_seconds(compiled, *shapes) if size <= limit else None
        if seconds is not None:
            return {**row, 'blocks': blocks, 'bytes': size, 'step_seconds': seconds}
        if blocks == 1:
            raise ValueError(f'not one block of {row["case"]} fits {limit:,} bytes by {row["method"]}')
        blocks = max(min(blocks - 1, int(0.98 * blocks)), 1)


def _step_seconds(compiled: Any, state: Any, batch: Any) -> float | None:
    """Of the second of two steps; None where memory does not suffice."""
    try:
        zeros = jax.jit(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (state, batch['label'])))()
        image = jax.random.normal(jax.random.key(0), batch['image'].shape)
        after = zeros[0]
        for _ in range(2):
            start = time.perf_counter()
            after, *_ = compiled(after, {'image': image, 'label': zeros[1]}, jax.random.key(0))
            jax.block_until_ready(after)
        return time.perf_counter() - start
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        return None


def memory_limit() -> int:
    """Bytes that a step may take."""
    if _LIMIT.value:
        return _LIMIT.value * 10**6
    stats = jax.devices()[0].memory_stats() or {}
    if 'bytes_limit' not in stats:
        raise ValueError(f'{jax.devices()[0].device_kind} does not tell how much memory it has: give --limit_mb')
    return stats['bytes_limit']


def main(argv: list[str]) -> None:
    """Runs all and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}')
    limit = memory_limit()
    cases = [(name, method) for name in _MODELS.value for method in METHODS]
    with futures.ThreadPoolExecutor() as pool:  # compilation runs outside Python's lock
        planned = list(
            tqdm(pool.map(lambda case: plan(case[0], case[1], limit), cases), total=len(cases), disable=None)
        )
    rows = [try_out(row, limit) for row in tqdm(planned, disable=None)]
    sizes = {'limit_bytes': limit, 'batch': _BATCH.value}
    for row in rows:
        print('  '.join(f'{value!s:>16}' for value in row.values()))
    for name in _MODELS.value:
        own = [row for row in rows if row['case'] == name]
        path = pathlib.Path(_RESULTS.value) / 'depth.json'
        replace_rows(path, name, own, {**sizes, **report.provenance('')})


if __name__ == '__main__':
    cli.run(main)
