"""Time of a Fashion MNIST epoch for each wiring and rule of rec-LRA, relative to backprop's.

  python -m benchmarks.mlp

Same model (5 x 256 tanh), optimizer (Adam), batch (50) and data for all. Compiled first; then the epochs of all
methods are interleaved, so that drift of the machine's speed hits all alike, and the median ratio to the backprop
epoch of the same round is taken. Writes results/mlp_speed.json.
"""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from configs import mlp
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import Dataset, Split, load
from rlra_jax.experiment.epoch import init_run
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.scanned import make_epoch, put
from rlra_jax.parallel.mesh import make_mesh

_ROUNDS = flags.DEFINE_integer('rounds', 15, 'Epochs timed per method.', lower_bound=3)
_EXAMPLES = flags.DEFINE_integer('examples', 10_000, 'Training images of an epoch.', lower_bound=1000)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of mlp_speed.json.')

METHODS = {
    'backprop': 'learner=backprop',
    **{
        f'{w} {rule}': f'rule={rule},learner.wiring={w}'
        for w in ('direct', 'blocks', 'chain')
        for rule in ('fixed', 'kp')
    },
    **{
        f'{w} mirror, k = 4': f'rule=mirror,learner.wiring={w},learner.mirror_every=4'
        for w in ('direct', 'blocks', 'chain')
    },
}


def main(argv: list[str]) -> None:
    """Times all methods and prints a table."""
    del argv
    data = load('fashion_mnist')
    data = data._replace(train=Split(data.train.image[: _EXAMPLES.value], data.train.label[: _EXAMPLES.value]))
    epochs = {name: _compile(options, data) for name, options in tqdm(METHODS.items(), desc='compiling', disable=None)}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in tqdm(range(_ROUNDS.value), desc='timing', unit='round', disable=None):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            jax.block_until_ready(epoch['run'](*epoch['inputs']))
            seconds[name].append(time.perf_counter() - start)
    base = np.array(seconds['backprop'])
    rows = [
        {
            'method': name,
            'ratio_to_backprop': float(np.median(np.array(times) / base)),
            'ratio_min': float(np.min(np.array(times) / base)),
            'ratio_max': float(np.max(np.array(times) / base)),
            'seconds_compile': epochs[name]['seconds_compile'],
        }
        for name, times in seconds.items()
    ]
    result = {
        'rows': rows,
        'batch_size': 50,
        'rounds': _ROUNDS.value,
        'examples': _EXAMPLES.value,
        **report.provenance(data.sha256),
    }
    report.write_json(pathlib.Path(_RESULTS.value) / 'mlp_speed.json', result)
    for row in rows:
        print(f'{row["method"]:22} {row["ratio_to_backprop"]:.2f} ({row["ratio_min"]:.2f} to {row["ratio_max"]:.2f})')


def _compile(options: str, data: Dataset) -> dict[str, Any]:
    """The compiled epoch of one seed, warmed up, and what it is called with."""
    experiment = build(mlp.get_config(options), data)
    train, val = (put(split, Preprocess(data.scale), make_mesh()) for split in (data.train, data.val))
    seed, number = jnp.int32(0), jnp.int32(1)
    inputs = init_run(experiment, seed), train, val, seed, number
    start = time.perf_counter()
    run = jax.jit(make_epoch(experiment)).lower(*inputs).compile()
    seconds = time.perf_counter() - start
    jax.block_until_ready(run(*inputs))
    return {'run': run, 'inputs': inputs, 'seconds_compile': seconds}


if __name__ == '__main__':
    cli.run(main)
