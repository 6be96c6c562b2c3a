"""A model taken apart: every region as a function of its own parameters and of the activities that it reads.

The cut forward pass is traced once, with what leaves every Site replaced by a fresh input. Each region's
pre-activation then depends on its own parameters and on the activities before it alone, so that dead-code elimination
of the traced program gives the region as a program of its own, whatever the model looks like.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.extend.core import Literal

from rlra_jax.capture import OUTPUT, Pass, forward
from rlra_jax.dependence import Trace
from rlra_jax.parallel.signature import signature
from rlra_jax.paths import flatten, refill
from rlra_jax.types import Array, Phi, Variables

INPUT = '~'  # stands for the image where regions are named; no path has this name, see `paths.join`
Flat = Mapping[str, Array]  # {'dense_1/kernel': leaf}: a tree with one key per leaf


class Part(NamedTuple):
    """One region by itself: h = f(parameters, activities of its parents), z = phi(h)."""

    name: str
    parents: tuple[str, ...]  # regions whose z it reads, in order of first use; INPUT for the image
    params: tuple[str, ...]  # paths of the parameters it reads, in order of first use
    stats: tuple[str, ...]  # paths in the other collections that it reads or renews: 'batch_stats/norm/mean'
    phi: Phi | None  # None for the output
    shape: tuple[int, ...]  # of h, batch axis included
    dtype: Any
    sign: Callable[[], str]  # gives the signature; only when it is wanted, and so not within shard_map
    program: Any
    consts: list[Any]
    reads: tuple[tuple[str, str], ...]  # (kind, name) of each input of the program

    @property
    def signature(self) -> str:
        """Equal for regions that compute the same function of what they read."""
        return self.sign()

    def run(self, params: Flat, stats: Flat, z: Mapping[str, Array], key: Array) -> tuple[Array, Array, dict]:
        """(h, z, renewed stats); for the output z is h. Names beyond its own may be present and are not read."""
        inputs = {'params': params, 'stats': stats, 'z': z, 'key': {'': key}}
        h, z_out, *renewed = jax.core.eval_jaxpr(
            self.program, self.consts, *(inputs[kind][name] for kind, name in self.reads)
        )
        return h, z_out, dict(zip(self.stats, renewed, strict=True))


def dissect(
    model: nn.Module, variables: Variables, x: Array, key: Array, *, train_kwargs: Mapping[str, Any] | None = None
) -> dict[str, Part]:
    """{region: Part} in forward order.

    Args:
      model: a linen module whose activations are Sites.
      variables: what `model.init` returned; this and x may be jax.ShapeDtypeStructs.
      x: a batch `[B, ...]`; the parts are for its shape and dtype.
      key: for the model's random streams.
      train_kwargs: further keyword arguments of the model's call.

    Raises:
      ValueError: a parameter serves several regions or none, or a statistic cannot be attributed to one.
    """
    params, stats = split(variables)
    seen = jax.eval_shape(lambda v, x, k: _leaving(model, v, x, k, train_kwargs), variables, x, key)
    tree = {'params': params, 'stats': stats, 'z': {**seen, INPUT: x}, 'key': {'': key}}
    phi: dict[str, Phi] = {}
    trace_cut = jax.make_jaxpr(lambda tree: _cut(model, tree, variables, train_kwargs, phi), return_shape=True)
    closed, out = trace_cut(tree)
    names = [(kind, name) for kind, group in sorted(tree.items()) for name in sorted(group)]
    slots = {slot: i for i, slot in enumerate(_slots(out))}
    trace = Trace(closed.jaxpr)
    renews = _attribute(trace, slots, names, list(out['h']), stats)
    parts = {}
    for name in (*phi, OUTPUT):
        wanted = [slots['h', name], slots['z', name], *(slots['stats', path] for path in renews[name])]
        parts[name] = _part(name, trace, closed.consts, wanted, names, renews[name], phi.get(name), out['h'][name])
    _check_params(parts, params)
    return parts


def check_independent(parts: Mapping[str, Part], mode: str) -> None:
    """Raises ValueError if what a region computes depends on how the batch is split."""
    stats = sorted({path for part in parts.values() for path in part.stats})
    random = [part.name for part in parts.values() if ('key', '') in part.reads]
    if stats or random:
        what = f'statistics of the batch ({stats[0]}, ...)' if stats else f'random numbers (in {random})'
        raise ValueError(
            f'{mode} mode splits the batch, so that no region may need {what}: take group or layer normalisation, '
            'or train this model data parallel or streamed'
        )


def split(variables: Variables) -> tuple[dict[str, Array], dict[str, Array]]:
    """({'dense_1/kernel': leaf}, {'batch_stats/norm/mean': leaf}): parameters, and all other collections."""
    return flatten(variables['params']), flatten({k: v for k, v in variables.items() if k != 'params'})


def _leaving(model, variables, x, key, train_kwargs) -> dict[str, Array]:
    """What leaves each Site."""
    return _activities(forward(model, variables, x, rngs=key, train_kwargs=train_kwargs))


def _activities(seen: Pass) -> dict[str, Array]:
    """Z of each hidden region, computed from h here: within nn.remat what `leave` is handed could not come out."""
    return {name: phi(seen.h[name]) for name, phi in seen.phi.items()}


def _cut(model, tree, variables, train_kwargs, phi) -> dict[str, dict[str, Array]]:
    def leave(name: str, value: Array) -> Array:
        return tree['z'][name]

    rest = {name: value for name, value in variables.items() if name != 'params'}
    whole = {'params': refill(variables['params'], tree['params']), **refill(rest, tree['stats'])}
    seen = forward(model, whole, tree['z'][INPUT], rngs=tree['key'][''], train_kwargs=train_kwargs, leave=leave)
    phi.update(seen.phi)
    return {'h': seen.h, 'z': _activities(seen) | {OUTPUT: seen.h[OUTPUT]}, 'stats': flatten(seen.variables)}


def _slots(out: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(kind, name) of each output of the traced program, in JAX's order of dictionaries."""
    return [(kind, name) for kind, group in sorted(out.items()) for name in sorted(group)]


def _attribute(trace: Trace, slots, names, regions, stats) -> dict[str, tuple[str, ...]]:
    """Region -> the statistics that it renews: those computed from nothing but what the region reads."""
    reads = {region: _inputs(trace, [slots['h', region]], names) for region in regions}
    readers: dict[tuple[str, str], list[str]] = {}
    for region, own in reads.items():
        for name in own:
            readers.setdefault(name, []).append(region)
    renews: dict[str, tuple[str, ...]] = dict.fromkeys(regions, ())
    for path in stats:
        needs = _inputs(trace, [slots['stats', path]], names) | {('stats', path)}
        other = {name for name in needs if name[0] != 'stats'}
        owners = {region for name in needs for region in readers.get(name, ()) if other <= reads[region]}
        if not owners:
            raise ValueError(f'{path!r} belongs to no single region; the regions are {regions}')
        renews[min(owners, key=regions.index)] += (path,)
    return renews


def _inputs(trace: Trace, wanted, names) -> set[tuple[str, str]]:
    return {names[i] for i in trace.part(wanted)[1]}


def _part(name, trace: Trace, consts, wanted, names, renews, phi, h) -> Part:
    """The region's program, its inputs sorted by first use so that equal regions have equal text."""
    jaxpr, inputs = trace.part(wanted)
    left = dict(zip(jaxpr.invars, [names[i] for i in inputs], strict=True))
    uses = [v for eqn in jaxpr.eqns for v in eqn.invars] + list(jaxpr.outvars)
    order = [v for v in dict.fromkeys(v for v in uses if not isinstance(v, Literal)) if v in left]
    reads = tuple(left[v] for v in order)
    program = jaxpr.replace(invars=order)
    of_kind = {kind: tuple(n for k, n in reads if k == kind) for kind in ('params', 'stats', 'z')}

    @functools.cache
    def sign() -> str:
        h_program, h_inputs = trace.part(wanted[:1])
        learnt = [place for place, i in enumerate(h_inputs) if names[i][0] == 'params']
        return f'{[kind for kind, _ in reads]} {signature(program, h_program, consts, learnt)}'

    return Part(name, of_kind['z'], of_kind['params'], renews, phi, h.shape, h.dtype, sign, program, consts, reads)


def _check_params(parts: Mapping[str, Part], params: Flat) -> None:
    users: dict[str, list[str]] = {path: [] for path in params}
    for part in parts.values():
        for path in part.params:
            users[path].append(part.name)
    wrong = {path: names for path, names in users.items() if len(names) != 1}
    if wrong:
        raise ValueError(f'each parameter must belong to exactly one region to be held by one; these do not: {wrong}')
