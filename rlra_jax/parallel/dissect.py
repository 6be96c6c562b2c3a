"""A model taken apart: every region with all that it computes, by itself.

Besides the pre-activation, which `programs.py` gives, a Part knows the activity and the statistics that its region
renews, and which other regions compute the same.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from rlra_jax.model.net import Net, require_no_loops
from rlra_jax.model.programs import CutModel, Flat, Program, Values, cut_model
from rlra_jax.model.regions import met
from rlra_jax.parallel.signature import signature
from rlra_jax.paths import unboxed
from rlra_jax.types import Array, Phi, Region, Variables
from rlra_jax.validate import require

INPUT = '~'  # stands for the batch's array where regions are named; no path has this name, see `paths.join`


def values(params: Flat, stats: Flat, z: Mapping[str, Array], key: Array) -> Values:
    """What programs read; z: region -> activity, INPUT -> what the model reads of a batch."""
    x = {INPUT: z[INPUT]} if INPUT in z else {}
    return {'params': params, 'stats': stats, 'z': z, 'x': x, 'key': {'': key}}


class Part(NamedTuple):
    """One region by itself: h = f(parameters, activities of its parents), z = phi(h)."""

    name: str
    stats: tuple[str, ...]  # paths in the other collections that it reads or renews: 'batch_stats/norm/mean'
    phi: Phi | None  # None for the output
    shape: tuple[int, ...]  # of h, batch axis included
    dtype: Any  # of h
    program: Program  # of h, z and the renewed stats; what it reads in order of first use
    own: Program  # of h alone
    describe: Callable[[], Region]  # gives the region as a Net has it; only when it is wanted

    @property
    def parents(self) -> tuple[str, ...]:
        """Regions whose z it reads, in order of first use; INPUT for the batch's array."""
        return tuple(name for kind, name in self.program.reads if kind in ('x', 'z'))

    @property
    def params(self) -> tuple[str, ...]:
        """Paths of the parameters that it reads, in order of first use."""
        return self.program.named('params')

    @property
    def z_dtype(self) -> Any:
        """Of the activity: a phi may return another than that of h."""
        return self.program.jaxpr.outvars[1].aval.dtype

    @property
    def renewed(self) -> list[str]:
        """Its statistics without those that stay as they are, such as what is fitted to data beforehand."""
        _, _, *after = self.program.jaxpr.outvars
        return [path for path, var in zip(self.stats, after, strict=True) if var not in self.program.jaxpr.invars]

    @property
    def signature(self) -> str:
        """Equal for regions that compute the same function of what they read. Not to be had within shard_map."""
        learnt = [place for place, (kind, _) in enumerate(self.own.reads) if kind == 'params']
        # The image is an activity like others: to what it enters, 'x' is as good as 'z'.
        kinds = ['z' if kind == 'x' else kind for kind, _ in self.program.reads]
        return f'{kinds} {signature(self.program.jaxpr, self.own.jaxpr, self.own.consts, learnt)}'

    @property
    def region(self) -> Region:
        """What feeds it, and by which parameters, those in order of first use."""
        found = self.describe()
        return dataclasses.replace(found, weights=tuple(path for path in self.params if path in found.weights))

    def run(self, params: Flat, stats: Flat, z: Mapping[str, Array], key: Array) -> tuple[Array, Array, Flat]:
        """(h, z, renewed stats); for the output z is h. Names beyond its own may be present and are not read."""
        jaxpr, consts, reads = self.program
        inputs = values(params, stats, z, key)
        h, z_out, *renewed = jax.core.eval_jaxpr(jaxpr, consts, *(inputs[kind][name] for kind, name in reads))
        return h, z_out, dict(zip(self.stats, renewed, strict=True))


def dissect(net: Net, variables: Variables, x: Array, key: Array) -> dict[str, Part]:
    """{region: Part} in forward order.

    Args:
      net: what `regions` returned, of a linen module.
      variables: what `model.init` returned; this and x may be jax.ShapeDtypeStructs.
      x: what the model reads of a batch `[B, ...]`; the parts are for its shape and dtype.
      key: for the model's random streams.

    Raises:
      ValueError: regions lie in loops; a parameter serves several regions or none, or a statistic cannot be attributed
        to one; or as `input_name`.
    """
    require_no_loops(net, 'this mode')
    size, own = x.shape[0], input_name(net)
    batch: Any = {
        name: jax.ShapeDtypeStruct((size, *value.shape[1:]), value.dtype) for name, value in net.example.items()
    }
    cut = cut_model(net, unboxed(variables), {**batch, own: x}, key)  # the mode says where parameters lie
    renews = _attribute(cut)
    parts = {name: _part(cut, name, program, renews[name]) for name, program in cut.programs().items()}
    _check_params(parts, cut.values['params'])
    return parts


def input_name(net: Net) -> str:
    """The name of the one array that the model reads of a batch.

    Raises:
      ValueError: it reads several, or none.
    """
    cut = cut_model(net, unboxed(net.variable_shapes()), net.example, jax.random.key(0))
    read = {name for kind, name in cut.reads(list(cut.outputs.values())) if kind == 'x'}
    require(len(read) == 1, 'what a model reads of a batch', 'one array in level, stage and stream mode', sorted(read))
    return read.pop()


def check_independent(parts: Mapping[str, Part], mode: str) -> None:
    """Raises ValueError if a region renews statistics or draws random numbers, which go by how the batch is split.

    It does not see other operations across examples, such as a mean over them that is not kept.
    """
    stats = sorted({path for part in parts.values() for path in part.renewed})
    random = [part.name for part in parts.values() if ('key', '') in part.program.reads]
    if stats or random:
        what = f'statistics of the batch ({stats[0]}, ...)' if stats else f'random numbers (in {random})'
        raise ValueError(
            f'{mode} mode splits the batch, so that no region may need {what}: take group or layer normalisation, '
            'or train this model data parallel or streamed'
        )


def _attribute(cut: CutModel) -> dict[str, tuple[str, ...]]:
    """Region -> the statistics that it renews: those computed from nothing but what the region reads."""
    regions, stats = list(cut.h), cut.values['stats']
    reads = {region: cut.reads([cut.outputs['h', region]]) for region in regions}
    readers: dict[tuple[str, str], list[str]] = {}
    for region, own in reads.items():
        for name in own:
            readers.setdefault(name, []).append(region)
    renews: dict[str, tuple[str, ...]] = dict.fromkeys(regions, ())
    for path in stats:
        needs = cut.reads([cut.outputs['stats', path]]) | {('stats', path)}
        other = {name for name in needs if name[0] != 'stats'}
        owners = {region for name in needs for region in readers.get(name, ()) if other <= reads[region]}
        if not owners:
            raise ValueError(f'{path!r} belongs to no single region; the regions are {regions}')
        renews[min(owners, key=regions.index)] += (path,)
    return renews


def by_first_use(program: Program) -> Program:
    """The program with its inputs sorted by first use, so that equal regions have equal text."""
    jaxpr = program.jaxpr
    uses = [v for eqn in jaxpr.eqns for v in eqn.invars] + list(jaxpr.outvars)
    names = dict(zip(jaxpr.invars, program.reads, strict=True))
    order = [v for v in dict.fromkeys(v for v in uses if not isinstance(v, Literal)) if v in names]
    return Program(jaxpr.replace(invars=order), program.consts, tuple(names[v] for v in order))


def _part(cut: CutModel, name: str, own: Program, renews: tuple[str, ...]) -> Part:
    """The region by itself."""
    wanted = [cut.outputs['h', name], cut.outputs['z', name], *(cut.outputs['stats', path] for path in renews)]
    jaxpr, inputs = cut.trace.part(wanted)
    program = by_first_use(Program(jaxpr, cut.consts, tuple(_as_input(cut.inputs[i]) for i in inputs)))

    @functools.cache
    def describe() -> Region:
        return Region(name, h.shape, h.dtype, *met(own, cut.values))

    h, phi = cut.h[name], cut.phi.get(name)
    own_reads = own._replace(reads=tuple(map(_as_input, own.reads)))
    return Part(name, renews, phi, h.shape, h.dtype, program, own_reads, describe)


def _as_input(read: tuple[str, str]) -> tuple[str, str]:
    """(kind, name), the batch's array under the name INPUT."""
    return ('x', INPUT) if read[0] == 'x' else read


def _check_params(parts: Mapping[str, Part], params: Flat) -> None:
    users: dict[str, list[str]] = {path: [] for path in params}
    for part in parts.values():
        for path in part.params:
            users[path].append(part.name)
    wrong = {path: names for path, names in users.items() if len(names) != 1}
    if wrong:
        raise ValueError(f'each parameter must belong to exactly one region to be held by one; these do not: {wrong}')
