"""The backward pass of a program, over other values in the place of its parameters.

A program maps parameters and everything else, such as images and activities, to one array. What it computes from
parameters alone are its weights; all its other values are activities. Its vector-Jacobian product adds signals, which
depend on the cotangent. Signals read weights where activities met weights in the forward pass. There other weights can
take their place, while activities stay as they passed: pooling switches, statistics of a normalisation, attention
patterns, gates and dropout masks.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from rlra_jax.compiler import varying_like
from rlra_jax.model.dependence import Trace
from rlra_jax.types import Array, PyTree

# Operations that run a program of their own once, operand by operand.
_CALLS = {
    **dict.fromkeys(('jit', 'remat2', 'checkpoint'), 'jaxpr'),
    **dict.fromkeys(('closed_call', 'core_call'), 'call_jaxpr'),
}


class Meeting(NamedTuple):
    """An operation in which weights meet activities."""

    eqn: core.JaxprEqn
    operand: int  # the number of the operand that is made of parameters alone
    weight: int  # its number among the weights

    def apply(self, other: Array) -> Callable[[Array], Array]:
        """The operation, of two operands, as a function of the weight; other: the other operand."""

        def run(weight: Array) -> Array:
            operands = (weight, other) if self.operand == 0 else (other, weight)
            return self.eqn.primitive.bind(*operands, **self.eqn.params)

        return run


class BackwardPass:
    """The way back through (out, other results) = function(params, rest) over weights made of other parameters.

    Activities are computed here, from `params`. `pull` and `gradient` send signals over weights that are given.

    Args:
      function: (params, rest) -> (an array, a tree of arrays that no signal comes from).
      params: a tree of arrays.
      rest: a tree of arrays: all else that the function reads.

    Attributes:
      out: the array.
      others: the tree.
      order: the numbers of the leaves of `params`, in the order in which the function uses them.
      meetings: where weights meet activities.
    """

    def __init__(self, function: Callable[[PyTree, PyTree], tuple[Array, PyTree]], params: PyTree, rest: PyTree):
        like_params: Any
        like_rest: Any
        self._theta, like_params = jax.tree.flatten(params)
        others, like_rest = jax.tree.flatten(rest)
        self._like = like_params, like_rest

        def run(theta: Sequence[Array], others: Sequence[Array]) -> list[Array]:
            return jax.tree.leaves(function(like_params.unflatten(theta), like_rest.unflatten(others)))

        forward = self._forward = _Forward(taken_apart(run, self._theta, others), len(self._theta))
        self.order, self.meetings = forward.order, forward.meetings
        weights = forward.weights(self._theta)
        values = [*weights, *others]
        moved = [i for i, value in enumerate(values) if jnp.issubdtype(value.dtype, jnp.floating)]
        self._moved = {i: number for number, i in enumerate(moved)}
        self._count = len(weights)

        def back(values: Sequence[Array], cotangent: Array) -> Sequence[Array]:
            def run(own: Sequence[Array]) -> tuple[Array, list[Array]]:
                given = list((dict(enumerate(values)) | dict(zip(moved, own, strict=True))).values())
                out, *others = forward.activities(given[: len(weights)], given[len(weights) :])
                return out, others

            out, pull, others = jax.vjp(run, [values[i] for i in moved], has_aux=True)
            return [*pull(cotangent)[0], out, *others]

        cotangent = forward.activities(weights, others)[0]  # of which only the type matters
        self._back = _Backward(taken_apart(back, values, cotangent), weights, others, len(moved))
        self.out, *results = self._back.results
        like_others: Any = jax.tree.structure(jax.eval_shape(function, params, rest)[1])
        self.others = like_others.unflatten(results)

    def weights(self, params: PyTree) -> list[Array]:
        """What the function computes from parameters alone, were they these."""
        return self._forward.weights(self._like[0].flatten_up_to(params))

    def met(self) -> PyTree:
        """For each leaf of `rest`: the numbers of the leaves of `params` that its signal meets; None if none comes."""

        def params_met(leaf: int) -> set[int] | None:
            weights = self._back.met(self._moved[leaf]) if leaf in self._moved else None
            return None if weights is None else {i for weight in weights for i in self._forward.reads(weight)}

        return self._like[1].unflatten([params_met(self._count + i) for i in range(self._like[1].num_leaves)])

    def pull(self, weights: Sequence[Array], cotangent: Array) -> PyTree:
        """The cotangent of `rest` for one of out, over these weights. Linear in it; 0 where nothing can pass."""
        places = range(self._count, self._count + self._like[1].num_leaves)
        wanted = [i for i in places if i in self._moved]
        found = dict(zip(wanted, self._signals(wanted, weights, cotangent), strict=True))
        return self._like[1].unflatten([found.get(i, jnp.zeros(())) for i in places])

    def gradient(self, weights: Sequence[Array], cotangent: Array) -> PyTree:
        """The cotangent of `params` for one of out: signals travel over these weights, the parameters learn their own.

        What the function computes from parameters alone passes the gradient on by its own derivative.
        """
        wanted = [i for i in range(self._count) if i in self._moved]

        def floating(theta: Sequence[Array]) -> list[Array]:
            own = self._forward.weights(theta)
            return [own[i] for i in wanted]

        _, pull = jax.vjp(floating, self._theta)
        return self._like[0].unflatten(pull(self._signals(wanted, weights, cotangent))[0])

    def _signals(self, wanted: Sequence[int], weights: Sequence[Array], cotangent: Array) -> list[Array]:
        return self._back.signals([self._moved[i] for i in wanted], weights, varying_like(cotangent, self.out))


class _Forward:
    """A program in two parts: what it computes from its first inputs alone, and all else."""

    def __init__(self, closed: core.ClosedJaxpr, first: int):
        jaxpr, consts, inputs = closed.jaxpr, closed.consts, closed.jaxpr.invars[:first]
        early = {*inputs, *jaxpr.constvars}
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
        given, known = [*jaxpr.constvars, *inputs], len(consts)
        run_early = _program(jaxpr, given, before, handed_on)
        trace = Trace(_part(jaxpr, given, before, handed_on))
        run_late = _program(jaxpr, [*handed_on, *jaxpr.invars[first:]], after, jaxpr.outvars)
        self.weights = lambda theta: run_early(*consts, *theta)  # what the second part reads of the first
        self.activities = lambda weights, others: run_late(*weights, *others)  # the results
        self.reads = lambda weight: [i - known for i in trace.part([weight])[1] if i >= known]  # the inputs in a weight
        uses = dict.fromkeys(var for eqn in jaxpr.eqns for var in _variables(eqn.invars))
        self.order = [inputs.index(var) for var in uses if var in inputs]
        numbers = {var: number for number, var in enumerate(handed_on)}
        self.meetings = [
            Meeting(eqn, place, numbers[atom])
            for eqn in after
            for place, atom in enumerate(eqn.invars)
            if _variables([atom]) and atom in numbers
        ]


class _Backward:
    """A vector-Jacobian product (weights, others, cotangent) -> (some cotangents, results), and what passed in it."""

    def __init__(self, closed: core.ClosedJaxpr, weights: Sequence[Array], others: Sequence[Array], moved: int):
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
        run_now = _program(jaxpr, [*jaxpr.constvars, *given], now, [*jaxpr.outvars[moved:], *passed])
        known = run_now(*closed.consts, *weights, *others)
        results = len(jaxpr.outvars) - moved
        self.results, activities = known[:results], known[results:]
        inputs = [*jaxpr.constvars, *given[: len(weights)], cotangent, *passed]

        def signals(wanted: Sequence[int], weights: Sequence[Array], cotangent: Array) -> list[Array]:
            ends = [i for i in wanted if not of_signals.isdisjoint(_variables([jaxpr.outvars[i]]))]
            run = _program(jaxpr, inputs, later, [jaxpr.outvars[i] for i in ends])
            found = dict(zip(ends, run(*closed.consts, *weights, cotangent, *activities), strict=True))
            like = closed.out_avals
            return [found[i] if i in found else jnp.zeros(like[i].shape, like[i].dtype) for i in wanted]

        def met(number: int) -> list[int] | None:
            if of_signals.isdisjoint(_variables([jaxpr.outvars[number]])):
                return None
            first, last = len(jaxpr.constvars), len(jaxpr.constvars) + len(weights)  # where the cotangent is
            used = trace.part([number])[1]
            return [i - first for i in used if first <= i < last] if last in used else None

        trace = Trace(_part(jaxpr, inputs, later, jaxpr.outvars[:moved]))
        self.met = met  # the weights that a signal meets on its way to the cotangent of this number; None if none comes
        self.signals = signals  # the cotangents of these numbers; zeros where no signal comes


def _program(
    like: core.Jaxpr, invars: Sequence[core.Var], eqns: Sequence[core.JaxprEqn], outvars: Sequence[Any]
) -> Callable[..., list[Array]]:
    """Those of some operations that some variables need, as a function of others."""
    own = _part(like, invars, eqns, outvars)
    return lambda *values: jax.core.eval_jaxpr(own, (), *values)


def _part(
    like: core.Jaxpr, invars: Sequence[core.Var], eqns: Sequence[core.JaxprEqn], outvars: Sequence[Any]
) -> core.Jaxpr:
    needed, kept = set(_variables(outvars)), []
    for eqn in reversed(eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(_variables(eqn.invars))
            kept.append(eqn)
    debug_info = like.debug_info._replace(arg_names=None, result_paths=None)
    kept.reverse()
    return like.replace(constvars=[], invars=list(invars), eqns=kept, outvars=list(outvars), debug_info=debug_info)


def _variables(atoms: Iterable[Any]) -> list[core.Var]:
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def taken_apart(function: Callable[..., Sequence[Array]], *args: PyTree) -> core.ClosedJaxpr:
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


def _differ(outside: Any, inside: Any) -> bool:
    return outside.aval.shape != inside.aval.shape


def _needs(eqn: core.JaxprEqn) -> list[set[core.Var]]:
    """For each result of an operation: the operands that it depends on."""
    if eqn.primitive.name != 'scan':
        return [set(_variables(eqn.invars))] * len(eqn.outvars)
    body: Any = getattr(eqn.params['jaxpr'], 'jaxpr', eqn.params['jaxpr'])
    # What is scanned over has an axis more than inside; constants come first, then what is carried.
    scanned = sum(map(_differ, eqn.invars, body.invars))
    carries = len(body.outvars) - sum(map(_differ, eqn.outvars, body.outvars))
    carried = body.invars[len(body.invars) - scanned - carries : len(body.invars) - scanned]
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
