"""What checkpoints cost: epochs of the Fashion MNIST run with one after each, and without.

  python -m benchmarks.checkpoints

Stretches of epochs with and without checkpoints are interleaved, so that drift of the machine's speed hits both alike;
a stretch ends when all is written. Beside the time that passed there is the processors' time, which other programs
disturb less. Writes results/checkpoints.json.
"""

import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath

from benchmarks.epochs import lower_epoch
from configs import fashion_mnist
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.checkpoint import Checkpoints
from rlra_jax.experiment.data import load

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Stretches of each kind.', lower_bound=1)
_EPOCHS = flags.DEFINE_integer('epochs', 3, 'Of a stretch.', lower_bound=1)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of checkpoints.json.')


def stretch(epoch: Any, inputs: tuple[Any, ...], epochs: int, checkpoints: Checkpoints | None) -> tuple[float, float]:
    """(seconds, processor seconds) that epochs take, with checkpoints or without."""
    run, *rest, _ = inputs
    wall, processors = time.perf_counter(), time.process_time()
    for _ in range(epochs):
        number = 1 if checkpoints is None else checkpoints.epoch + 1
        run, metrics = epoch(run, *rest, jnp.int32(number))
        jax.block_until_ready(metrics)
        if checkpoints is not None:
            checkpoints.save(number, run)
    if checkpoints is not None:
        checkpoints.wait()
    return time.perf_counter() - wall, time.process_time() - processors


def main(argv: list[str]) -> None:
    """Measures, and prints the shares."""
    del argv
    data = load('fashion_mnist')
    lowered, inputs = lower_epoch(fashion_mnist.get_config('num_seeds=1'), data)
    epoch = lowered.compile()
    jax.block_until_ready(epoch(*inputs))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(epath.Path(folder))
        pairs = [
            [stretch(epoch, inputs, _EPOCHS.value, kind) for kind in (None, checkpoints)] for _ in range(_ROUNDS.value)
        ]
        checkpoints.close()
    without, with_them = np.moveaxis(np.array(pairs), 1, 0)  # each [rounds, (seconds, processor seconds)]
    shares = 100 * (with_them / without - 1)
    result = {
        'rounds': _ROUNDS.value,
        'epochs': _EPOCHS.value,
        'seconds_of_an_epoch': float(np.median(without[:, 0]) / _EPOCHS.value),
        'cost_percent': float(np.median(shares[:, 0])),
        'cost_percent_by_round': shares[:, 0].tolist(),
        'processor_cost_percent': float(np.median(shares[:, 1])),
        'processor_cost_percent_by_round': shares[:, 1].tolist(),
        **report.provenance(data.sha256),
    }
    report.write_json(pathlib.Path(_RESULTS.value) / 'checkpoints.json', result)
    print(
        f'checkpoints cost {result["cost_percent"]:.2f} %, and {result["processor_cost_percent"]:.2f} % of processors'
    )


if __name__ == '__main__':
    cli.run(main)
