"""Which region feeds which, and by what: read off the trace of a model, whatever its operations are.

Every Site's z is tagged with its name while the model is traced. Names then flow through the trace: an operation's
result depends on all names of its operands; passing a tag starts afresh. One property flows with them, whether a region
has come so far through nothing but sums, each time as one summand: then it is a residual skip.
"""

from collections.abc import Mapping, Sequence

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from rlra_jax.types import Array

Feeds = Mapping[str, bool]  # region -> whether it has only been added

_TAG = 'rlra:'
# Operations that run a trace of their own, argument by argument.
_CALLS = {'jit', 'remat2', 'closed_call', 'custom_jvp_call', 'custom_vjp_call'}
_SUMS = {'add', 'add_any', 'convert_element_type', 'copy', 'name', 'stop_gradient'}


def tag(name: str, z: Array) -> Array:
    """z, recognisable in a trace as what leaves the region of that name."""
    return checkpoint_name(z, _TAG + name)


def feeds(closed: core.ClosedJaxpr) -> list[Feeds]:
    """For each output of a trace, the regions that reach it directly."""
    return _flow(closed.jaxpr, [{} for _ in closed.jaxpr.invars])


def _flow(jaxpr: core.Jaxpr, arguments: Sequence[Feeds]) -> list[Feeds]:
    known: dict[core.Var, Feeds] = dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom) -> Feeds:
        return {} if isinstance(atom, core.Literal) else known.get(atom, {})

    for eqn in jaxpr.eqns:
        known |= zip(eqn.outvars, _operate(eqn, [read(atom) for atom in eqn.invars]), strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _operate(eqn: core.JaxprEqn, operands: Sequence[Feeds]) -> list[Feeds]:
    """What reaches each result of an operation."""
    name, params = eqn.primitive.name, eqn.params
    if name == 'name' and params['name'].startswith(_TAG):
        return [{params['name'].removeprefix(_TAG): True}]
    inner = subtrace(eqn)
    if inner is not None:
        return _flow(inner, operands)
    named = [atom for atom, operand in zip(eqn.invars, operands, strict=True) if operand]
    shapes = {getattr(atom.aval, 'shape', None) for atom in (*named, *eqn.outvars)}
    sums = name in _SUMS and len(shapes) == 1
    result: dict[str, bool] = {}
    for operand in operands:
        result |= {region: sums and only and region not in result for region, only in operand.items()}
    return [result] * len(eqn.outvars)


def subtrace(eqn: core.JaxprEqn) -> core.Jaxpr | None:
    """The trace that an operation such as jit runs argument by argument, or None."""
    if eqn.primitive.name not in _CALLS:
        return None
    inner = eqn.params['jaxpr'] if 'jaxpr' in eqn.params else eqn.params['call_jaxpr']
    return getattr(inner, 'jaxpr', inner)


def trace(function, *args) -> tuple[list[jax.ShapeDtypeStruct], list[Feeds]]:
    """(shapes, feeds) of the list of arrays that a function returns."""
    closed = jax.make_jaxpr(function)(*args)
    return [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.out_avals], feeds(closed)
