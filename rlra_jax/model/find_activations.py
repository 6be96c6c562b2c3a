"""Where a model applies its activation functions: a list to mark Sites by, for models that nobody has marked yet."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax.extend import core

from rlra_jax.model.axes import make_jaxpr
from rlra_jax.model.net import Net, require_net
from rlra_jax.model.walk import inner_programs

# jax.nn's functions carry their names in a trace; these of them are no activation of units one by one.
_OTHERS = {'dot_product_attention', 'log_softmax', 'logmeanexp', 'logsumexp', 'one_hot', 'softmax', 'standardize'}
_FUNCTIONS = frozenset(vars(jax.nn)) - _OTHERS
_OPERATIONS = {'erf', 'logistic', 'sign', 'tanh'}  # primitives that are activations, or the heart of one
_COMPARISONS = {'ge': 'h >= 0', 'gt': 'h > 0', 'le': 'h <= 0', 'lt': 'h < 0'}  # of a function with a bend at 0
_JAX, _FLAX, _OWN = (str(pathlib.Path(file).parent) + os.sep for file in (jax.__file__, flax.__file__, __file__))
_UNKNOWN = 'unknown'


class Activation(NamedTuple):
    """One application of an activation function."""

    function: str  # 'relu', or the primitive that gives it away, such as 'tanh' within a gelu
    module: str  # path of the module that applies it, '' at the top and for nnx modules
    shape: tuple[int, ...]  # of its argument, batch axis included
    location: str  # 'file:line' of the model's own code


def find_activations(net: Net) -> tuple[Activation, ...]:
    """Traces a model and lists its activation functions in the order in which they are applied; nothing is computed.

    They are recognised by the names of jax.nn's functions and the primitives tanh, logistic, erf, sign and max(h, 0),
    or a comparison of numbers with 0, as in PReLU: a function of the user's own making may be missed, and a gate or a
    mask of such primitives is listed too. What a scan repeats is listed once, and all branches of a condition are.

    Args:
      net: what `regions` returned; the model needs no Site.

    Raises:
      ValueError: net is not what `regions` returns.
    """
    require_net(net)
    closed = make_jaxpr(
        lambda v, x, key: net.apply(v, x, key)[0], net.variable_shapes(), dict(net.example), jax.random.key(0)
    )
    return tuple(_search(closed.jaxpr, ''))


def _search(jaxpr: core.Jaxpr, outer: str, caller: str = _UNKNOWN) -> Iterator[Activation]:
    for eqn in jaxpr.eqns:
        place = '/'.join(part for part in (outer, str(eqn.source_info.name_stack)) if part)
        location, own = _location(eqn)
        location = caller if location == _UNKNOWN else location  # a function traced before has no frames of the model
        function = _function(eqn, own)
        if function and eqn.invars:  # a call whose result nobody uses may have lost its arguments
            shape = max((getattr(atom.aval, 'shape', ()) for atom in eqn.invars), key=len)
            yield Activation(function, place.partition('/')[2], shape, location)
        else:
            for inner in inner_programs(eqn):
                yield from _search(inner, place, location)


def _function(eqn: core.JaxprEqn, own: bool) -> str | None:
    name, called = eqn.primitive.name, eqn.params.get('name')
    if name in _OPERATIONS or called in _FUNCTIONS:
        return called if called in _FUNCTIONS else name
    bend = 'max(h, 0)' if name == 'max' and own else _COMPARISONS.get(name)
    zeros = [atom for atom in eqn.invars if isinstance(atom, core.Literal) and atom.val == 0]
    read: list[Any] = [atom.aval for atom in eqn.invars]
    units = any(h.ndim and jnp.issubdtype(h.dtype, jnp.floating) for h in read)
    return bend if zeros and units else None  # of a number without an axis it is a condition


def _location(eqn: core.JaxprEqn) -> tuple[str, bool]:
    """(the innermost line that is not a library's, whether it calls JAX itself: flax floors its variances too)."""
    frames: Any = eqn.source_info.traceback.frames if eqn.source_info.traceback else ()
    places = [(f.file_name, f.line_num) for f in frames if not f.file_name.startswith(_JAX)]
    own = [place for place in places if not place[0].startswith((_FLAX, _OWN))]
    location = ':'.join(map(str, own[0])) if own else _UNKNOWN
    return location, bool(own) and not places[0][0].startswith(_FLAX)
