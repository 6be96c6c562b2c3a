"""Whether the regions that hear of a parameter use it each for itself.

A layer that is called several times, or a parameter that several layers share, may serve a region at each use. But
where a path bypasses a Site, several regions read one and the same activity that the parameter has a part in.
"""

from collections.abc import Iterable

import jax
from jax.extend import core

from rlra_jax.model.backward_pass import taken_apart
from rlra_jax.model.programs import CutModel
from rlra_jax.model.walk import variables


def used_in_common(cut: CutModel) -> set[str]:
    """The paths of parameters that have a part in an activity which several regions read; nothing is computed.

    What is computed from parameters and statistics alone is no activity, but weights.
    """
    program, numbers = cut.trace.part([cut.outputs['h', name] for name in cut.h])
    inputs = [cut.inputs[i] for i in numbers]
    like = [cut.values[kind][name] for kind, name in inputs]
    jaxpr = taken_apart(lambda *values: jax.core.eval_jaxpr(program, cut.consts, *values), *like).jaxpr
    params = {var: 1 << i for i, var in enumerate(jaxpr.invars) if inputs[i][0] == 'params'}  # var -> a bit for each
    activities = {var for i, var in enumerate(jaxpr.invars) if inputs[i][0] not in ('params', 'stats')}
    for eqn in jaxpr.eqns:
        read = variables(eqn.invars)
        params |= dict.fromkeys(eqn.outvars, _union(params, read))
        if not activities.isdisjoint(read):
            activities.update(eqn.outvars)
    readers = _readers(jaxpr)
    common = _union(params, (var for var in activities if readers.get(var, 0).bit_count() > 1))
    return {name for i, (_, name) in enumerate(inputs) if common >> i & 1}


def _readers(jaxpr: core.Jaxpr) -> dict[core.Var, int]:
    """Variable -> the outputs that it has a part in, a bit for each."""
    found: dict[core.Var, int] = {}
    for i, atom in enumerate(jaxpr.outvars):
        found |= {var: _union(found, [var]) | 1 << i for var in variables([atom])}
    for eqn in reversed(jaxpr.eqns):
        own = _union(found, eqn.outvars)
        found |= {var: _union(found, [var]) | own for var in variables(eqn.invars)}
    return found


def _union(bits: dict[core.Var, int], variables: Iterable[core.Var]) -> int:
    total = 0
    for var in variables:
        total |= bits.get(var, 0)
    return total
