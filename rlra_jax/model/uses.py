"""Whether the regions that hear of a parameter use it each for itself.

A layer that is called several times, or a parameter that several layers share, may serve a region at each use. But
where a path bypasses a Site, several regions read one and the same activity that the parameter has a part in.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from rlra_jax.model.backward_pass import taken_apart
from rlra_jax.model.programs import FIXED, CutModel
from rlra_jax.model.walk import loop_inputs, needs, variables


def used_in_common(cut: CutModel) -> set[str]:
    """The paths of parameters that have a part in an activity which several regions read; nothing is computed.

    What is computed from parameters, statistics and random numbers alone is no activity, but weights.
    """
    program, numbers = cut.trace.part([cut.outputs['h', name] for name in cut.h])
    inputs = [cut.inputs[i] for i in numbers]
    like = [cut.values[kind][name] for kind, name in inputs]
    params = [1 << i if kind == 'params' else 0 for i, (kind, _) in enumerate(inputs)]  # a bit for each
    activities = [kind not in ('params', *FIXED) for kind, _ in inputs]
    common = _follow(program, cut.consts, like, params, activities).common
    return {name for i, (_, name) in enumerate(inputs) if common >> i & 1}


class _Followed(NamedTuple):
    common: int  # the bits of parameters that have a part in what several results read
    params: list[int]  # of each result
    activities: list[bool]  # whether it is one


def _follow(
    program: core.Jaxpr, consts: Sequence[Any], like: Sequence[Any], params: Sequence[int], activities: Sequence[bool]
) -> _Followed:
    """Follows parameters through a program; params, activities: of each of its arguments, of the types `like`."""
    jaxpr = taken_apart(lambda *values: jax.core.eval_jaxpr(program, consts, *values), *like).jaxpr
    bits = dict(zip(jaxpr.invars, params, strict=True))
    active = {var for var, own in zip(jaxpr.invars, activities, strict=True) if own}
    common = 0
    for eqn in jaxpr.eqns:
        for var, read in zip(eqn.outvars, needs(eqn), strict=True):
            bits[var] = _union(bits, read)
            if not active.isdisjoint(read):
                active.add(var)
        if eqn.primitive.name == 'scan':
            common |= _follow_loop(eqn, bits, active)
    readers = _readers(jaxpr)
    common |= _union(bits, (var for var in active if readers.get(var, 0).bit_count() > 1))
    ends = [set(variables([atom])) for atom in jaxpr.outvars]
    return _Followed(common, [_union(bits, end) for end in ends], [not active.isdisjoint(end) for end in ends])


def _follow_loop(eqn: core.JaxprEqn, bits: dict[core.Var, int], active: set[core.Var]) -> int:
    """What is used in common in an iteration, or from one to the next: what is carried has a part in itself then."""
    body, (first, count) = eqn.params['jaxpr'], loop_inputs(eqn)
    ends = [set(variables([atom])) for atom in eqn.invars]
    params, activities = [_union(bits, end) for end in ends], [not active.isdisjoint(end) for end in ends]
    while True:
        found = _follow(body.jaxpr, body.consts, body.in_avals, params, activities)
        before = [*params], [*activities]
        for i in range(count):
            params[first + i] |= found.params[i]
            activities[first + i] |= found.activities[i]
        if before == (params, activities):
            return found.common


def _readers(jaxpr: core.Jaxpr) -> dict[core.Var, int]:
    """Variable -> the outputs that it has a part in, a bit for each."""
    found: dict[core.Var, int] = {}
    for i, atom in enumerate(jaxpr.outvars):
        found |= {var: _union(found, [var]) | 1 << i for var in variables([atom])}
    for eqn in reversed(jaxpr.eqns):
        for result, read in zip(eqn.outvars, needs(eqn), strict=True):
            own = _union(found, [result])
            found |= {var: _union(found, [var]) | own for var in read}
    return found


def _union(bits: dict[core.Var, int], variables: Iterable[core.Var]) -> int:
    total = 0
    for var in variables:
        total |= bits.get(var, 0)
    return total
