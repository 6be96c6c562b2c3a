"""Where arrays lie: `make_mesh` and what takes its mesh. (Several devices: `data_and_levels.py`.)"""

import dataclasses

import apart
import helpers
import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import rlra_jax
from rlra_jax import parallel
from rlra_jax.parallel import mesh as mesh_module

OTHERS = [Mesh(np.array(jax.devices()[:1]), ('data',)), {'data': 1}]


@pytest.mark.parametrize('mesh', OTHERS)
@pytest.mark.parametrize('call', ['replicate', 'shard_batch', 'level_update_fn', 'stage_step'])
def test_a_mesh_of_other_axes_or_another_argument_in_its_place(mesh, call):
    model, variables, batch = helpers.make_mlp(depth=2)
    wiring = rlra_jax.wire_chain(apart.sites(model, batch['image']), rule=rlra_jax.KolenPollack())
    calls = {
        'replicate': lambda: parallel.replicate(mesh, variables),
        'shard_batch': lambda: parallel.shard_batch(mesh, batch),
        'level_update_fn': lambda: apart.level_update_fn(model, wiring, mesh),
        'stage_step': lambda: apart.stage_step(model, wiring, mesh, variables, batch['image'], optax.sgd(0.1)),
    }
    with pytest.raises(ValueError, match=r"as make_mesh makes it, .*'level', 'stage'\); got \('data',\)|got 'dict'"):
        calls[call]()


def test_more_levels_than_devices():
    with pytest.raises(ValueError, match='level times stage must be a divisor of the 1 device there is; got 3'):
        parallel.make_mesh(level=3, devices=jax.devices()[:1])


def test_an_axis_that_there_is_not_is_told_of_one_slice_too():
    with pytest.raises(ValueError, match="across must be one of data, level, stage; got 'foo'"):
        parallel.make_mesh(across='foo', devices=jax.devices()[:1])


@dataclasses.dataclass(frozen=True)
class OfSlice:
    """A device that tells its slice, as those of TPUs do."""

    id: int
    slice_index: int
    device_kind: str = 'simulated'
    platform: str = 'simulated'


def test_devices_that_tell_their_slices_are_put_there():
    """In whatever order they come."""
    devices = [OfSlice(i, i % 2) for i in range(8)]
    grid = mesh_module._in_slices(devices, (2, 1, 4), 2, 'stage')
    assert [[device.slice_index for device in row] for row in grid[:, 0]] == [[0, 0, 1, 1]] * 2
    assert sorted(device.id for device in grid.flat) == list(range(8))
    with pytest.raises(ValueError, match=r'slices must be as many as devices tell of, .*, \{0: 4, 1: 4\}; got 4'):
        mesh_module._in_slices(devices, (2, 1, 4), 4, 'stage')
    with pytest.raises(ValueError, match=r'all of one size, \{0: 4, 1: 3\}; got 2'):
        mesh_module._in_slices(devices[:7], (7, 1, 2), 2, 'stage')
