"""Device meshes, and where arrays lie on them.

Data parallelism needs no more than this: the plain jitted step runs on 1 or N devices by the shardings of what it is
given. XLA then averages over the global batch, batch-norm statistics included.

    mesh = make_mesh()
    state, batch = replicate(mesh, state), shard_batch(mesh, batch)
    state, aux = jax.jit(step.update)(state, batch, key)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rlra_jax.model.capture import batch_size
from rlra_jax.types import Batch, GivenBatch
from rlra_jax.validate import check_arrays, require, require_count

Tree = TypeVar('Tree')
AXES = ('data', 'level', 'stage')


def make_mesh(
    data: int = -1,
    level: int = 1,
    stage: int = 1,
    *,
    slices: int = 1,
    across: str = 'data',
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with the axes data, level and stage.

    Where devices come in slices, each with fast links inside and a slow network to the others, only neighbours along
    the axis `across` talk over that network.

    Args:
      data: devices along which the batch is split; -1 for as many as the others leave.
      level: devices along which the regions of a recursion level are split.
      stage: devices along which the blocks of the model are split.
      slices: how many there are, of one size. TPUs tell which slice they are of; of others, as many as make a slice
        follow each other, in the order of their processes.
      across: the axis along which slices follow each other; 'stage' sends least.
      devices: those to use; all devices of all processes if None.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or slices do not divide the axis that they lie
        across, or devices tell of other slices.
    """
    listed = devices is None or isinstance(devices, Sequence | np.ndarray)
    require(listed, 'devices', 'a sequence of devices, such as jax.devices()[:2]', devices)
    available = jax.devices() if devices is None else list(devices)
    require_count('level', level)
    require_count('stage', stage)
    count, others = len(available), level * stage
    there = f'{count} device{"s" * (count > 1)}'
    require(
        count % others == 0,
        'level times stage',
        f'a divisor of the {there} there {"are" if count > 1 else "is"}',
        others,
    )
    if data == -1:
        data = len(available) // (level * stage)
    require_count('data', data)
    sizes = (data, level, stage)
    expected = f'sizes that multiply to the {len(available)} devices'
    require(math.prod(sizes) == len(available), 'data, level and stage', expected, sizes)
    # Auto axes: with make_mesh's default, Explicit, every operation of a user's model would have to name its sharding.
    auto = (AxisType.Auto,) * 3
    require_count('slices', slices)
    require(across in AXES, 'across', f'one of {", ".join(AXES)}', across)
    if slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=auto, devices=available)
    return Mesh(_in_slices(available, sizes, slices, across), AXES, axis_types=auto)


def _in_slices(devices: Sequence[Any], sizes: tuple[int, ...], slices: int, across: str) -> np.ndarray:
    """Devices as [data, level, stage], slice after slice along one of these."""
    axis = AXES.index(across)
    require(
        sizes[axis] % slices == 0, f'{across}, which {slices} slices share,', f'a multiple of {slices}', sizes[axis]
    )
    own = [size // slices if i == axis else size for i, size in enumerate(sizes)]
    blocks = [mesh_utils.create_device_mesh(own, group) for group in _slices(devices, slices)]
    return np.concatenate(blocks, axis=axis)


def _slices(devices: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """The devices of each slice, as they tell, or in equal runs where they tell of none."""
    told: dict[int, list[Any]] = {}
    for device in devices:
        told.setdefault(getattr(device, 'slice_index', 0), []).append(device)
    size = len(devices) // count
    if len(told) == 1:
        return [devices[start : start + size] for start in range(0, len(devices), size)]
    found = {index: len(group) for index, group in sorted(told.items())}
    fits = list(found.values()) == [size] * count
    require(fits, 'slices', f'as many as devices tell of, all of one size, {found}', count)
    return [told[index] for index in sorted(told)]


def check_mesh(mesh: Mesh) -> None:
    """Raises ValueError unless the mesh has the axes that `make_mesh` gives."""
    came = mesh.axis_names if isinstance(mesh, Mesh) else type(mesh).__name__
    require(came == AXES, 'the mesh', f'one as make_mesh makes it, with the axes {AXES}', came)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits examples along data and level; stages all see them."""
    return NamedSharding(mesh, PartitionSpec(('data', 'level')))


def shares(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape['data'] * mesh.shape['level']


def check_shares(size: int, ways: int) -> None:
    """Raises ValueError unless so many examples split evenly into so many shares."""
    require(size % ways == 0, 'the batch', f'a multiple of the {ways} devices that share it', size)


def own_rows(mesh: Mesh, size: int, devices: Sequence[Any] | None = None) -> np.ndarray:
    """Which rows of a batch of that size the given devices take, or this process's: int [rows], ascending.

    `shard_batch` wants them of each process, in this order.
    """
    rows: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((size,))
    mine = [device for device in rows if device.process_index == jax.process_index()] if devices is None else devices
    return np.unique(np.concatenate([np.arange(size)[rows[device]] for device in mine]))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(mesh: Mesh, batch: GivenBatch) -> Batch:
    """Puts a batch on the mesh. With several processes, each hands over its own share of the examples.

    Raises:
      ValueError: the examples do not split evenly, or the mesh is not one of `make_mesh`.
    """
    check_mesh(mesh)
    ways = shares(mesh) // (jax.process_count() if mesh.is_multi_process else 1)
    check_arrays(batch)
    size = batch_size(batch)
    check_shares(size, max(ways, 1))
    sharding = batch_sharding(mesh)
    if not mesh.is_multi_process:
        return jax.device_put(dict(batch), sharding)
    return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batch.items()}


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Puts a copy of every array on every device; with several processes, all must hand over the same values.

    Raises:
      ValueError: the mesh is not one of `make_mesh`.
    """
    check_mesh(mesh)
    if not mesh.is_multi_process:
        return jax.device_put(tree, replicated(mesh))

    def put(leaf: Any) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, replicated(mesh), lambda index: whole[index])

    return jax.tree.map(put, tree)
