"""The backward pass of a program, over other values in the place of its parameters.

A program maps parameters and everything else, such as images and activities, to one array. What it computes from
parameters alone are its weights; all its other values are activities. Its vector-Jacobian product adds signals, which
depend on the cotangent. Signals read weights where activities met weights in the forward pass. There other weights can
take their place, while activities stay as they passed: pooling switches, statistics of a normalisation, attention
patterns, gates and dropout masks.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from rlra_jax.types import Array, PyTree

# Operations that run a program of their own once, operand by operand.
_CALLS = {
    **dict.fromkeys(('jit', 'remat2', 'checkpoint'), 'jaxpr'),
    **dict.fromkeys(('closed_call', 'core_call'), 'call_jaxpr'),
}


class BackwardPass:
    """The way back through out = function(params, rest), from out to `rest`, over weights made of other parameters.

    Activities are computed here, from `params`. `weights` and `pull` do not read them again.

    Args:
      function: (params, rest) -> one array.
      params: a tree of arrays.
      rest: a tree of arrays: all else that the function reads.

    Attributes:
      out: what the function returns.
    """

    def __init__(self, function: Callable[[PyTree, PyTree], Array], params: PyTree, rest: PyTree):
        self._params: Any
        self._rest: Any
        theta, self._params = jax.tree.flatten(params)
        others, self._rest = jax.tree.flatten(rest)

        def run(theta: Sequence[Array], others: Sequence[Array]) -> list[Array]:
            return [function(self._params.unflatten(theta), self._rest.unflatten(others))]

        self._forward = _Forward(_taken_apart(run, theta, others), len(theta))
        weights = self._forward.weights(theta)

        def back(weights: Sequence[Array], others: Sequence[Array], cotangent: Array) -> list[Array]:
            moved = [i for i, value in enumerate(others) if jnp.issubdtype(value.dtype, jnp.floating)]

            def out(values: Sequence[Array]) -> Array:
                given = dict(enumerate(others)) | dict(zip(moved, values, strict=True))
                return self._forward.activities(weights, list(given.values()))

            (found,) = jax.vjp(out, [others[i] for i in moved])[1](cotangent)
            return [dict(zip(moved, found, strict=True)).get(i, jnp.zeros(())) for i in range(len(others))]

        self.out = self._forward.activities(weights, others)
        self._back = _Backward(_taken_apart(back, weights, others, self.out), weights, others)

    def weights(self, params: PyTree) -> list[Array]:
        """What the function computes from parameters alone, were they these."""
        return self._forward.weights(self._params.flatten_up_to(params))

    def pull(self, weights: Sequence[Array], cotangent: Array) -> PyTree:
        """The cotangent of `rest` for one of out, over these weights. Linear in the cotangent."""
        cotangent = jnp.where(True, cotangent, self.out)  # varies over the devices that out varies over
        return self._rest.unflatten(self._back.signals(weights, cotangent))


class _Forward:
    """A program of one result in two parts: what it computes from its first inputs alone, and all else."""

    def __init__(self, closed: core.ClosedJaxpr, first: int):
        jaxpr, consts = closed.jaxpr, closed.consts
        early = {*jaxpr.invars[:first], *jaxpr.constvars}
        before, after = [], []
        read = list(jaxpr.outvars)
        for eqn in jaxpr.eqns:
            if early.issuperset(_variables(eqn.invars)):
                early.update(eqn.outvars)
                before.append(eqn)
            else:
                after.append(eqn)
                read += eqn.invars
        handed_on = [var for var in dict.fromkeys(_variables(read)) if var in early]
        run_early = _program(jaxpr, [*jaxpr.constvars, *jaxpr.invars[:first]], before, handed_on)
        run_late = _program(jaxpr, [*handed_on, *jaxpr.invars[first:]], after, jaxpr.outvars)
        self.weights = lambda theta: run_early(*consts, *theta)  # what the second part reads of the first
        self.activities = lambda weights, others: run_late(*weights, *others)[0]  # the result


class _Backward:
    """A vector-Jacobian product (weights, others, cotangent) -> cotangents of the others, and what passed in it."""

    def __init__(self, closed: core.ClosedJaxpr, weights: Sequence[Array], others: Sequence[Array]):
        jaxpr = closed.jaxpr
        given, cotangent = jaxpr.invars[:-1], jaxpr.invars[-1]
        of_weights, of_signals = {*given[: len(weights)], *jaxpr.constvars}, {cotangent}
        now, later = [], []
        for eqn in jaxpr.eqns:
            if not of_signals.isdisjoint(_variables(eqn.invars)):
                of_signals.update(eqn.outvars)
                later.append(eqn)
                continue
            now.append(eqn)
            own = {var for var, needs in zip(eqn.outvars, _needs(eqn), strict=True) if needs <= of_weights}
            of_weights |= own
            if own:  # computed anew; results that are not made of weights alone under names that nobody reads
                outvars = [var if var in own else type(var)(var.aval) for var in eqn.outvars]
                later.append(eqn.replace(outvars=outvars))
        read = dict.fromkeys(_variables(atom for eqn in later for atom in eqn.invars))
        passed = [var for var in read if var not in of_weights and var not in of_signals]
        constants = [*jaxpr.constvars, *given[: len(weights)], cotangent]
        ends = [i for i, atom in enumerate(jaxpr.outvars) if not of_signals.isdisjoint(_variables([atom]))]
        run_now = _program(jaxpr, [*jaxpr.constvars, *given], now, passed)
        run_later = _program(jaxpr, [*constants, *passed], later, [jaxpr.outvars[i] for i in ends])
        activities = run_now(*closed.consts, *weights, *others)

        def signals(weights: Sequence[Array], cotangent: Array) -> list[Array]:
            found = run_later(*closed.consts, *weights, cotangent, *activities)
            nothing = {i: jnp.zeros(aval.shape, aval.dtype) for i, aval in enumerate(closed.out_avals)}
            return list((nothing | dict(zip(ends, found, strict=True))).values())

        self.signals = signals  # cotangents of the others; zeros where no signal comes


def _program(
    like: core.Jaxpr, invars: Sequence[core.Var], eqns: Sequence[core.JaxprEqn], outvars: Sequence[Any]
) -> Callable[..., list[Array]]:
    """Some operations of a program as a function of some of its variables."""
    debug_info = like.debug_info._replace(arg_names=None, result_paths=None)
    own = like.replace(constvars=[], invars=list(invars), eqns=list(eqns), outvars=list(outvars), debug_info=debug_info)
    return lambda *values: jax.core.eval_jaxpr(own, (), *values)


def _variables(atoms: Iterable[Any]) -> list[core.Var]:
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _taken_apart(function: Callable[..., Sequence[Array]], *args: PyTree) -> core.ClosedJaxpr:
    """The traced function without jit and remat, whose operations are its own, and with selections for conditions."""
    closed = jax.make_jaxpr(function)(*args)
    values = jax.tree.leaves(args)
    return jax.make_jaxpr(lambda *values: _apart(closed.jaxpr, closed.consts, values))(*values)


def _apart(jaxpr: core.Jaxpr, consts: Sequence[Array], values: Sequence[Array]) -> list[Array]:
    env: dict[core.Var, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands, name = [read(atom) for atom in eqn.invars], eqn.primitive.name
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            found = _apart(getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ()), operands)
        elif name == 'cond':  # its branches would hand weights on as if they were activities
            index, *rest = operands
            branches = [_apart(branch.jaxpr, branch.consts, rest) for branch in eqn.params['branches']]
            found = [_select(index, each) for each in zip(*branches, strict=True)]
        else:
            variables = _variables(dict.fromkeys(_variables(eqn.invars)))
            found = _program(jaxpr, variables, [eqn], eqn.outvars)(*(env[var] for var in variables))
        env |= zip(eqn.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _select(index: Array, cases: Sequence[Array]) -> Array:
    return functools.reduce(lambda last, case: jnp.where(index == case[0], case[1], last), enumerate(cases), cases[-1])


def _needs(eqn: core.JaxprEqn) -> list[set[core.Var]]:
    """For each result of an operation: the operands that it depends on."""
    if eqn.primitive.name != 'scan':
        return [set(_variables(eqn.invars))] * len(eqn.outvars)
    body, consts = eqn.params['jaxpr'].jaxpr, eqn.params['num_consts']
    carried = body.invars[consts : consts + eqn.params['num_carry']]
    known: dict[core.Var, set[int]] = {var: {i} for i, var in enumerate(body.invars)}
    grown = True
    while grown:
        for inner in body.eqns:
            for var, needs in zip(inner.outvars, _needs(inner), strict=True):
                known[var] = set().union(*(known.get(need, set()) for need in needs))
        ends = [known.get(atom, set()) if _variables([atom]) else set() for atom in body.outvars]
        grown = any(not end <= known[var] for var, end in zip(carried, ends, strict=False))
        known |= {var: known[var] | end for var, end in zip(carried, ends, strict=False)}
    return [set(_variables(eqn.invars[i] for i in end)) for end in ends]
