"""Which region feeds which, and by what: read off the trace of a model, whatever its operations are.

Every Site's z is tagged with its name while the model is traced. Names then flow through the trace: an operation's
result depends on all names of its operands; passing a tag starts afresh. Two properties flow with them: whether a
region has come so far through nothing but sums, each time as one summand, which makes it a residual skip; and which of
its positions are seen (`windows.py`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from rlra_jax import windows
from rlra_jax.axes import make_jaxpr
from rlra_jax.types import Array, Windows


class Feed(NamedTuple):
    """How a region has come to some place of a trace."""

    added: bool  # by nothing but sums
    seen: Windows | None  # by which windows, of a map; None: not known


Feeds = Mapping[str, Feed]  # region -> how it came here

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
        own = Feed(True, windows.unmoved(max(len(windows.shape(eqn.outvars[0])) - 2, 0)))
        return [{params['name'].removeprefix(_TAG): own}]
    inner = subtrace(eqn)
    if inner is not None:
        return _flow(inner, operands)
    named = [atom for atom, operand in zip(eqn.invars, operands, strict=True) if operand]
    shapes = {getattr(atom.aval, 'shape', None) for atom in (*named, *eqn.outvars)}
    sums = name in _SUMS and len(shapes) == 1
    result: dict[str, Feed] = {}
    for number, operand in enumerate(operands):
        for region, feed in operand.items():
            seen = windows.after(eqn, number, feed.seen)
            if region in result:
                result[region] = Feed(False, windows.join(result[region].seen, seen))
            else:
                result[region] = Feed(sums and feed.added, seen)
    return [result] * len(eqn.outvars)


def subtrace(eqn: core.JaxprEqn) -> core.Jaxpr | None:
    """The trace that an operation such as jit runs argument by argument, or None."""
    if eqn.primitive.name not in _CALLS:
        return None
    inner = eqn.params['jaxpr'] if 'jaxpr' in eqn.params else eqn.params['call_jaxpr']
    return getattr(inner, 'jaxpr', inner)


def trace(function, *args) -> tuple[list[jax.ShapeDtypeStruct], list[Feeds]]:
    """(shapes, feeds) of the list of arrays that a function returns."""
    closed = make_jaxpr(function, *args)
    return [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.out_avals], feeds(closed)
