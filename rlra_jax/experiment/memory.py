"""Whether a run fits: what its seeds hold, from shapes, against the memory that there is."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import psutil

from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.data import Dataset, Split
from rlra_jax.experiment.epoch import init_run
from rlra_jax.experiment.text import Text
from rlra_jax.model.capture import forward
from rlra_jax.parallel.mesh import shares

_CONTAINER = pathlib.Path('/sys/fs/cgroup/memory.max')  # where Linux tells a container its limit, 'max' if it has none


def check_memory(config: Any, experiment: Experiment, dataset: Dataset) -> None:
    """Checks, before anything is computed, that a device can hold what a run keeps there.

    Raises:
      ValueError: it cannot; says what a seed needs and how many fit.
    """
    per_seed, there = seed_bytes(experiment, config['parallel']['mode']), available_bytes(experiment)
    shared = sum(_size(s) for s in (dataset.train, dataset.val, dataset.test) if isinstance(s, Split | Text))
    fit, asked = max(there - shared, 0) // per_seed, config['num_seeds']
    if asked <= fit:
        return
    needs = f'a seed needs about {_told(per_seed)} for its state and the activities of a batch'
    has = f'{_told(there)} are there, of which the data take {_told(shared)}'
    if fit:
        raise ValueError(f'num_seeds must be at most {fit} here: {needs}, and {has}; got {asked}')
    raise ValueError(f'the model or its batch must be smaller: {needs}, and {has}')


def seed_bytes(experiment: Experiment, mode: str) -> int:
    """What a seed holds on a device, about.

    That is its Run before and after an epoch, gradients, and, where a step holds them at once, a batch's activities.

    Args:
      experiment: what is trained.
      mode: `config.parallel.mode`.
    """
    run = jax.eval_shape(functools.partial(init_run, experiment), jax.ShapeDtypeStruct((), jnp.int32))
    held = 2 * _size(run) + _size(run.state.weights)  # gradients are like these
    if mode != 'data':
        return held  # its step spreads activities over devices or over time
    variables = run.state.variables
    see = functools.partial(forward, experiment.net)
    h = jax.eval_shape(lambda variables, batch: see(variables, batch).h, variables, dict(experiment.net.example))
    return held + _size(h) // shares(experiment.spread.mesh)


def available_bytes(experiment: Experiment) -> int:
    """What a device of this process may still take; simulated ones share the host's memory."""
    devices = experiment.spread.mesh.local_devices
    stats = devices[0].memory_stats()
    if stats and 'bytes_limit' in stats:
        return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
    limit = _CONTAINER.read_text(encoding='utf-8').strip() if _CONTAINER.exists() else 'max'
    host = psutil.virtual_memory().available
    return (host if limit == 'max' else min(host, int(limit))) // len(devices)


def _size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _told(count: float) -> str:
    """1234567 -> '1.23 MB'."""
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:,.1f} TB'
