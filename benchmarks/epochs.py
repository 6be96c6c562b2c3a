"""What benchmarks of speed share: epochs of several methods, interleaved and timed against the first one's."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import Dataset
from rlra_jax.experiment.epoch import init_run
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.scanned import make_epoch, put

Timed = tuple[Callable[..., Any], tuple[Any, ...]]  # a compiled function, and what it is called with
Lowered = tuple[Any, tuple[Any, ...]]  # the same, to be compiled


def lower_epoch(config: Any, data: Dataset) -> Lowered:
    """An epoch of one seed of what a config says."""
    experiment = build(config, data)
    train, val = (put(split, Preprocess(data.scale), experiment.spread.mesh) for split in (data.train, data.val))
    seed, number = jnp.int32(0), jnp.int32(1)
    inputs = init_run(experiment, seed), train, val, seed, number
    whole = functools.partial(make_epoch(experiment).whole, steps=experiment.steps_per_epoch)
    return jax.jit(whole).lower(*inputs), inputs


def time_rounds(methods: Mapping[str, Timed], rounds: int) -> list[dict[str, Any]]:
    """Runs each once to warm up, then all in turn, so that drift of the machine's speed hits all alike.

    Returns:
      A row for each method: 'seconds', the median, and the ratios to the first method's time of the same round.
    """
    for run, inputs in methods.values():
        jax.block_until_ready(run(*inputs))
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in tqdm(range(rounds), desc='timing', unit='round', disable=None):
        for name, (run, inputs) in methods.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            seconds[name].append(time.perf_counter() - start)
    base = np.array(next(iter(seconds.values())))
    rows = []
    for name, times in seconds.items():
        ratios = np.array(times) / base
        rows.append(
            {
                'method': name,
                'ratio_to_backprop': float(np.median(ratios)),
                'ratio_min': float(ratios.min()),
                'ratio_max': float(ratios.max()),
                'seconds': float(np.median(times)),
            }
        )
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The ratios as a table."""
    for row in rows:
        print(f'{row["method"]:28} {row["ratio_to_backprop"]:.2f} ({row["ratio_min"]:.2f} to {row["ratio_max"]:.2f})')
