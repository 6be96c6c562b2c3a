"""Readout skips: outputs that read, linearly, regions far below them too.

Over such a skip an error reaches its region by the readout's transposed weights alone, whatever lies above the region:
see `wire_modules`.
"""

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from rlra_jax.model.net import Net, require_net
from rlra_jax.model.nnx import Site as NnxSite
from rlra_jax.model.regions import regions as make_net
from rlra_jax.model.site import watcher
from rlra_jax.nn.cells import cell_means
from rlra_jax.paths import join
from rlra_jax.types import Array
from rlra_jax.validate import lookup, require, require_count

_READOUTS = {'last': False, 'all': True}


class Skips(nn.Module):
    """Adds V_i^T z_i of several regions to outputs; every V starts at 0.

    A region of the outputs' positions is read position by position, any other as the means over its cells.

    Attributes:
      cells: along each axis of a map's positions.
      param_dtype: of V, and the least that the sum is computed in.
    """

    cells: int = 1
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: Array, z: Mapping[str, Array]) -> Array:
        """Outputs `[B, ..., n]` and {name: activity `[B, ...]`} -> outputs."""
        require_count('cells', self.cells)
        for name, activity in z.items():
            wide = activity.astype(jnp.promote_types(activity.dtype, self.param_dtype))
            seen = _seen(wide, y.shape, self.cells)
            width = _width(seen.shape, y.shape)
            options: Any = {'use_bias': False, 'kernel_init': nn.initializers.zeros, 'param_dtype': self.param_dtype}
            read = nn.Dense(width, dtype=seen.dtype, name=_plain(name), **options)
            y = y + read(seen).reshape(y.shape)
        return y


def read_all(model: Any, y: Array, z: Mapping[str, Array]) -> Array:
    """The outputs of a model with attributes readout, cells and param_dtype: with skips if its readout is 'all'."""
    if not lookup(_READOUTS, model.readout, 'readout'):
        require(model.cells == 1, 'cells', "1 but with readout='all'", model.cells)
        return y
    return Skips(model.cells, model.param_dtype, name='skips')(y, z)


def with_readouts(net: Net, regions: Collection[str], *, cells: int = 1) -> Net:
    """A net whose output also reads these regions; it has the readouts' weights more, under 'skips', and nothing else.

    The weights start at 0, so that at first the outputs stay as they were. Of a linen model all names stay, too; those
    of an nnx model come after 'model/', so that `wire_modules` takes Sites that no module held for one block, unless
    its `block` says otherwise. Where outputs have positions, a region that begins with the same ones is read position
    by position; any other one as means over all of its positions, later ones of a text included. Outputs are float32 or
    wider.

    Args:
      net: what `regions` returned, of a model that is called by its `__call__` and returns one array `[B, ..., n]`.
      regions: the names of those to read.
      cells: a map is read as the means over so many cells along each axis of its positions.

    Raises:
      ValueError: a region that the net does not have, or one of several calls or iterations of a Site; several outputs,
        or of no units; a call of another method, or one that picks one of several results; cells is no whole number of
        at least 1; an activation that makes no Site of its own, see `Site.of`; a Site inside `nn.remat` or `nn.jit`; or
        a net whose output has skips already.
    """
    require_net(net)
    require('skips' not in net.variable_shapes()['params'], 'net', 'one without readout skips', "parameters 'skips'")
    require_count('cells', cells)
    regions = tuple(regions)
    by_name = {region.name: region for region in net}
    (*others, last) = net
    hidden = [region.name for region in others if not (region.output or region.loops or '#' in region.name)]
    wrong = [name for name in regions if name not in hidden]
    if wrong:
        raise ValueError(f'a readout reads hidden regions that are called once, {hidden}; got {wrong}')
    require(len(net.outputs) == 1 and len(last.shape) > 1, 'the output', 'one array [B, ..., n]', list(net.outputs))
    names = tuple(name for name in hidden if name in set(regions))
    dtype = jnp.promote_types(last.dtype, jnp.float32)
    if isinstance(net.model, nn.Module):
        model: Any = _Reading(net.model, names, cells, dtype)
    else:
        shapes = {name: by_name[name].shape for name in names}
        model = _NnxReading(net.model, shapes, last.shape, cells=cells, param_dtype=dtype)
    try:
        return make_net(model, net.example, call=net.call)
    except AttributeError as error:
        raise ValueError(f'readouts want a model that is called by its __call__ alone: {error}') from error


class _Reading(nn.Module):
    """A linen model with skips; shares its scope, so that all keeps its name."""

    read_model: nn.Module  # whose own parts, which share this scope, may be called `model`
    regions: Sequence[str]
    cells: int
    param_dtype: Any

    def setup(self):
        nn.share_scope(self, self.read_model)
        self.skips = Skips(self.cells, self.param_dtype)

    def __call__(self, *args: Any, **keywords: Any) -> Array:
        seen = _Seen()
        token = watcher.set(seen.note)
        try:
            y = self.read_model(*args, **keywords)
        finally:
            watcher.reset(token)
        return self.skips(_one_array(y), seen.picked(self.regions))


class _NnxSkips(nnx.Module):
    """`Skips` in nnx."""

    def __init__(self, read: Mapping[str, Sequence[int]], outputs: Sequence[int], cells: int, param_dtype: Any):
        self._cells = cells
        for name, shape in read.items():
            seen = nnx.eval_shape(lambda shape=shape: _seen(jnp.zeros(shape), outputs, cells)).shape
            zeros, width = nnx.initializers.zeros, _width(seen, outputs)
            options: Any = {'use_bias': False, 'kernel_init': zeros, 'param_dtype': param_dtype}
            linear = nnx.Linear(seen[-1], width, rngs=nnx.Rngs(0), **options)
            setattr(self, _plain(name), linear)

    def __call__(self, y: Array, z: Mapping[str, Array]) -> Array:
        for name, activity in z.items():
            linear = getattr(self, _plain(name))
            wide = activity.astype(jnp.promote_types(activity.dtype, linear.kernel.dtype))
            y = y + linear(_seen(wide, y.shape, self._cells)).reshape(y.shape)
        return y


class _NnxReading(nnx.Module):
    """An nnx model with skips."""

    def __init__(self, model: nnx.Module, read: Mapping[str, Sequence[int]], outputs: Sequence[int], **options: Any):
        self.model, self.regions = model, tuple(read)
        self.skips = _NnxSkips(read, outputs, **options)

    @property
    def read_model(self) -> nnx.Module:
        return self.model

    def __call__(self, *args: Any, **keywords: Any) -> Array:
        seen = _Seen()
        with _watched(self.model, seen):
            y = self.model(*args, **keywords)
        return self.skips(_one_array(y), seen.picked(self.regions))


def _one_array(y: Any) -> Array:
    require(hasattr(y, 'shape'), 'what a model with readouts returns', 'one array [B, ..., n]', type(y).__name__)
    return y


@contextlib.contextmanager
def _watched(model: nnx.Module, seen: '_Seen') -> Iterator[None]:
    """Notes what leaves every Site: {its path: z}."""
    sites = {join(path): site for path, site in nnx.iter_modules(model) if isinstance(site, NnxSite)}
    before = {name: site.visit for name, site in sites.items()}

    def watch(name: str, site: NnxSite, h: Array) -> Array:
        visit = before[name]
        z = site.phi(h) if visit is None else visit(site, h)
        seen.note(name, z)
        return z

    for name, site in sites.items():
        site.visit = lambda site, h, name=name: watch(name, site, h)
    try:
        yield
    finally:
        for name, site in sites.items():
            site.visit = before[name]


class _Seen:
    """What leaves the Sites of a model, but for those inside nn.remat or nn.jit: their values may not leave these."""

    def __init__(self):
        self._z: dict[str, Array] = {}
        self._outside = _trace()

    def note(self, name: str, z: Array) -> None:
        if _trace() == self._outside:
            self._z[name] = z

    def picked(self, regions: Sequence[str]) -> dict[str, Array]:
        missing = [name for name in regions if name not in self._z]
        if missing:
            raise ValueError(
                f'a readout reads what leaves a Site; those of {missing} lie inside of nn.remat, nn.jit or their kin, '
                'or are no Sites of their own'
            )
        return {name: self._z[name] for name in regions}


def _trace() -> Any:
    return core.get_opaque_trace_state(convention='flax')


def _seen(z: Array, outputs: Sequence[int], cells: int) -> Array:
    """What a readout multiplies: `[B, the outputs' positions..., C]`, or means over cells, `[B, cells x C]`."""
    z = z[:, None] if z.ndim == 1 else z
    end = len(outputs) - 1  # of the axes of positions
    if z.shape[1:end] == tuple(outputs[1:-1]) and (end > 1 or z.ndim == 2) and z.ndim > end:
        return z.reshape(*z.shape[:end], math.prod(z.shape[end:]))
    means = cell_means(z, cells)
    return means.reshape(z.shape[0], math.prod(means.shape[1:]))  # an export has no length of a batch


def _width(seen: Sequence[int], outputs: Sequence[int]) -> int:
    """How many outputs each row of what is read goes to."""
    return math.prod(outputs) // math.prod(seen[:-1])


def _plain(name: str) -> str:
    """A region's name as one part of a path."""
    return name.replace('/', '.')
