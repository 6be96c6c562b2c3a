"""Whether the regions that hear of a parameter use it each for itself.

A layer that is called several times, or a parameter that several layers share, may serve a region at each use. But
where a path bypasses a Site, several regions read one and the same activity that the parameter has a part in.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from rlra_jax.model.backward_pass import taken_apart
from rlra_jax.model.programs import FIXED, CutModel
from rlra_jax.model.walk import loop_inputs, needs, variables


def used_in_common(cut: CutModel, looped: Collection[str]) -> set[str]:
    """The paths of parameters that have a part in an activity which several regions read; nothing is computed.

    What is computed from parameters, statistics and random numbers alone is no activity, but weights.

    Args:
      cut: the model.
      looped: the regions in loops that JAX traces once: there each iteration reads for itself.
    """
    program, numbers = cut.trace.part([cut.outputs['h', name] for name in cut.h])
    inputs = [cut.inputs[i] for i in numbers]
    like = [cut.values[kind][name] for kind, name in inputs]
    params = [1 << i if kind == 'params' else 0 for i, (kind, _) in enumerate(inputs)]  # a bit for each
    activities = [kind not in ('params', *FIXED) for kind, _ in inputs]
    regions = [1 << i for i in range(len(cut.h))]
    mask = sum(1 << i for i, name in enumerate(cut.h) if name in looped)
    common = _follow(program, cut.consts, like, params, activities, regions, mask).common
    return {name for i, (_, name) in enumerate(inputs) if common >> i & 1}


class _Followed(NamedTuple):
    common: int  # the bits of parameters that have a part in what several results read
    params: list[int]  # of each result
    activities: list[bool]  # whether it is one
    readers: list[int]  # of each argument


def _follow(
    program: core.Jaxpr,
    consts: Sequence[Any],
    like: Sequence[Any],
    params: Sequence[int],
    activities: Sequence[bool],
    readers: Sequence[int],
    looped: int,
) -> _Followed:
    """Follows parameters through a program.

    Args:
      program: whose arguments are of the types `like`.
      consts: its constants.
      like: the types.
      params: of each argument: a bit for each parameter that has a part in it.
      activities: of each argument: whether it is one.
      readers: of each result: a bit for each region, or other reader, that it has a part in.
      looped: the bits of readers that read in each iteration of a loop for itself.
    """
    jaxpr = taken_apart(lambda *values: jax.core.eval_jaxpr(program, consts, *values), *like).jaxpr
    known = _readers(jaxpr, readers)
    bits = dict(zip(jaxpr.invars, params, strict=True))
    active = {var for var, own in zip(jaxpr.invars, activities, strict=True) if own}
    common = 0
    for eqn in jaxpr.eqns:
        for var, read in zip(eqn.outvars, needs(eqn), strict=True):
            bits[var] = _union(bits, read)
            if not active.isdisjoint(read):
                active.add(var)
        if eqn.primitive.name == 'scan':
            common |= _follow_loop(eqn, bits, active, known, looped)
    common |= _union(bits, (var for var in active if known.get(var, 0).bit_count() > 1))
    ends = [set(variables([atom])) for atom in jaxpr.outvars]
    return _Followed(
        common,
        [_union(bits, end) for end in ends],
        [not active.isdisjoint(end) for end in ends],
        [_union(known, [var]) for var in jaxpr.invars],
    )


def _follow_loop(
    eqn: core.JaxprEqn, bits: dict[core.Var, int], active: set[core.Var], known: dict[core.Var, int], looped: int
) -> int:
    """What is used in common in an iteration, or from one to the next: what is carried has a part in itself then.

    Args:
      eqn: the loop.
      bits: as `params` of `_follow`, of variables around it.
      active: those of these that are activities.
      known: the readers of each.
      looped: as of `_follow`.
    """
    body, (first, count) = eqn.params['jaxpr'], loop_inputs(eqn)
    ends = [set(variables([atom])) for atom in eqn.invars]
    params, activities = [_union(bits, end) for end in ends], [not active.isdisjoint(end) for end in ends]
    readers = [_union(known, [var]) for var in eqn.outvars]
    each = any(own & looped for own in readers)
    if each:  # regions lie in it: whatever an iteration puts out has a reader of its own
        readers, looped = [1 << i for i in range(len(readers))], -1
    while True:
        found = _follow(body.jaxpr, body.consts, body.in_avals, params, activities, readers, looped)
        before = [*params], [*activities], [*readers]
        for i in range(count):
            params[first + i] |= found.params[i]
            activities[first + i] |= found.activities[i]
            readers[i] |= 0 if each else found.readers[first + i]
        if before == (params, activities, readers):
            return found.common


def _readers(jaxpr: core.Jaxpr, ends: Sequence[int]) -> dict[core.Var, int]:
    """Variable -> the readers of the results that it has a part in, a bit for each; ends: those of each result.

    Not those behind a `lax.stop_gradient` or a whole number, from where no error comes.
    """
    found: dict[core.Var, int] = {}
    for atom, own in zip(jaxpr.outvars, ends, strict=True):
        found |= {var: _union(found, [var]) | own for var in variables([atom])}
    for eqn in reversed(jaxpr.eqns):
        for result, read in zip(eqn.outvars, needs(eqn), strict=True):
            kind: Any = result.aval
            passes = eqn.primitive.name != 'stop_gradient' and jnp.issubdtype(kind.dtype, jnp.inexact)
            own = _union(found, [result]) if passes else 0
            found |= {var: _union(found, [var]) | own for var in read}
    return found


def _union(bits: dict[core.Var, int], variables: Iterable[core.Var]) -> int:
    total = 0
    for var in variables:
        total |= bits.get(var, 0)
    return total
