"""What a config's `parallel` entry says: a mesh, and the training step spread over it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from rlra_jax.model.capture import batch_size
from rlra_jax.model.net import Net
from rlra_jax.parallel.level import level_update_fn
from rlra_jax.parallel.mesh import make_mesh, shares
from rlra_jax.parallel.packing import PackedStep
from rlra_jax.parallel.stage import StagedStep, stage_step
from rlra_jax.parallel.stream import stream_step
from rlra_jax.train_step import TrainState, TrainStep, make_train_step
from rlra_jax.types import Array
from rlra_jax.validate import lookup, require, require_count

_LOG = logging.getLogger(__name__)


class Spread(NamedTuple):
    """A training step on a mesh. Between epochs there is a plain TrainState: a checkpoint knows of no mode or mesh."""

    mesh: Mesh
    pack: Callable[[TrainState], Any]
    update: Callable[[Any, Any, Array], tuple[Any, Any]]  # (what pack returned, batch, key) -> (the same, Aux)
    unpack: Callable[[Any], TrainState]


class Plain(NamedTuple):
    """What a mode makes its step from."""

    net: Net
    options: Mapping[str, Any]  # of the learner, as `names.named` gives them, and its loss
    optimizer: optax.GradientTransformation
    step: TrainStep


def spread(parallel: Mapping[str, Any], plain: Plain) -> Spread:
    """Makes the mesh, and the step on it.

    Args:
      parallel: `config.parallel`.
      plain: the step on one device, and what it is made of.

    Raises:
      ValueError: the sizes do not fit the devices, the batch or each other; or the mode needs another learner, wiring,
        rule, model or optimizer.
    """
    make = lookup(MODES, parallel['mode'], 'parallel.mode')
    for name in ('level', 'stage', 'microbatches'):
        require_count(f'parallel.{name}', parallel[name])
    if parallel['data'] != -1:  # all that are left
        require_count('parallel.data', parallel['data'])
    size = batch_size(plain.net.example)
    mesh = _make_mesh(parallel, size)
    count = parallel['microbatches']
    require(count == 1 or parallel['mode'] == 'stage', 'parallel.microbatches', "1 but in mode 'stage'", count)
    for axis in ('level', 'stage'):
        fits = mesh.shape[axis] == 1 or parallel['mode'] == axis
        require(fits, f'parallel.{axis}', f'1 in mode {parallel["mode"]!r}', mesh.shape[axis])
    ways = shares(mesh)
    require(size % ways == 0, 'batch_size', f'a multiple of the {ways} devices that share it', size)
    return make(parallel, plain, mesh)


def _make_mesh(parallel: Mapping[str, Any], batch_size: int) -> Mesh:
    """The mesh of `config.parallel`: in a single process of as many devices as it takes, the first of those there are.

    data=-1 takes all that are left, or as many of them as the batch can be shared among.
    """
    data, level, stage = (parallel[axis] for axis in ('data', 'level', 'stage'))
    devices = jax.devices()
    fits = level * stage <= len(devices)
    require(fits, 'parallel.level x parallel.stage', f'at most {len(devices)}, the devices there are', level * stage)
    if jax.process_count() == 1:
        left = len(devices) // (level * stage)
        if data == -1:
            parts = level * parallel['microbatches']
            data = next((n for n in range(left, 0, -1) if batch_size % (n * parts) == 0), left)
        if 0 < data * level * stage < len(devices):
            devices = devices[: data * level * stage]
            _LOG.warning('%d of %d devices take part', len(devices), jax.device_count())
    slices = {key: parallel[key] for key in ('slices', 'across') if key in parallel}  # older configs have none
    return make_mesh(data, level, stage, devices=devices, **slices)


def _data(parallel: Mapping[str, Any], plain: Plain, mesh: Mesh) -> Spread:
    """Devices share the batch; every one holds the whole model."""
    return _unpacked(mesh, plain.step)


def _level(parallel: Mapping[str, Any], plain: Plain, mesh: Mesh) -> Spread:
    """Devices share the regions of a recursion level, and the batch; for rec_lra."""
    wiring, options = _rec_lra(parallel, plain)
    return _unpacked(mesh, make_train_step(level_update_fn(plain.net, wiring, mesh, **options), plain.optimizer))


def _stage(parallel: Mapping[str, Any], plain: Plain, mesh: Mesh) -> Spread:
    """Devices share the model's blocks, in a pipeline; for rec_lra."""
    wiring, options = _rec_lra(parallel, plain)
    count = parallel['microbatches']
    return _packed(mesh, stage_step(plain.net, wiring, mesh, plain.optimizer, microbatches=count, **options))


def _stream(parallel: Mapping[str, Any], plain: Plain, mesh: Mesh) -> Spread:
    """Region by region, so that activation memory does not grow with depth; for rec_lra."""
    wiring, options = _rec_lra(parallel, plain)
    return _packed(mesh, stream_step(plain.net, wiring, plain.optimizer, **options))


MODES: dict[str, Callable[[Mapping[str, Any], Plain, Mesh], Spread]] = {
    'data': _data,
    'level': _level,
    'stage': _stage,
    'stream': _stream,
}


def _unpacked(mesh: Mesh, step: TrainStep) -> Spread:
    return Spread(mesh, lambda state: state, step.update, lambda state: state)


def _packed(mesh: Mesh, step: PackedStep | StagedStep) -> Spread:
    return Spread(mesh, step.pack, step.update, step.unpack)


def _rec_lra(parallel: Mapping[str, Any], plain: Plain) -> tuple[Any, dict[str, Any]]:
    """(wiring, further arguments) of the learner rec_lra."""
    options = dict(plain.options)
    name = options.pop('name')
    require(name == 'rec_lra', f'the learner of parallel.mode={parallel["mode"]!r}', "'rec_lra'", name)
    return options.pop('wiring'), options
