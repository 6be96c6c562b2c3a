"""The backward pass of a program, over other values in the place of its parameters.

A program maps parameters, what is fixed, such as statistics and random keys, and everything else, such as images and
activities, to one array. What it computes without everything else are its weights; all its other values are activities.
Its vector-Jacobian product adds signals, which depend on the cotangent. Signals read weights where activities met
weights in the forward pass. There other weights can take their place, while activities stay as they passed: pooling
switches, a batch's statistics in a normalisation, attention patterns and gates.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from rlra_jax.compiler import varying_like
from rlra_jax.model.dependence import Trace
from rlra_jax.model.walk import CALLS, loop_inputs, needs, part, program, runs, variables, walk
from rlra_jax.types import Array, PyTree

# (operation, its operands, which of them is a signal) -> its results; None where it shall run as it is
Meet = Callable[[core.JaxprEqn, list[Array], int], list[Array] | None]


class Meeting(NamedTuple):
    """An operation in which weights meet activities."""

    eqn: core.JaxprEqn
    operand: int  # the number of the operand that is a weight
    weight: int  # its number among the weights

    def apply(self, other: Array) -> Callable[[Array], Array]:
        """The operation, of two operands, as a function of the weight; other: the other operand."""

        def run(weight: Array) -> Array:
            operands = (weight, other) if self.operand == 0 else (other, weight)
            return self.eqn.primitive.bind(*operands, **self.eqn.params)

        return run


class BackwardPass:
    """The way back through (out, other results) = function(params, rest, fixed) over weights made of other parameters.

    Activities are computed here, from `params`. `pull` and `gradient` send signals over weights that are given.

    Args:
      function: (params, rest, fixed) -> (an array, a tree of arrays that no signal comes from).
      params: a tree of arrays.
      rest: a tree of arrays: all else that the function reads.
      fixed: a tree of arrays that weights are made of, too, as of a kernel with noise or with a norm that is kept.

    Attributes:
      out: the array.
      others: the tree.
      order: the numbers of the leaves of `params`, in the order in which the function uses them.
      meetings: where weights meet activities.
    """

    def __init__(
        self,
        function: Callable[[PyTree, PyTree, PyTree], tuple[Array, PyTree]],
        params: PyTree,
        rest: PyTree,
        fixed: PyTree,
    ):
        like_params: Any
        like_rest: Any
        like_fixed: Any
        self._theta, like_params = jax.tree.flatten(params)
        others, like_rest = jax.tree.flatten(rest)
        known, like_fixed = jax.tree.flatten(fixed)
        self._like = like_params, like_rest

        def run(theta: Sequence[Array], known: Sequence[Array], others: Sequence[Array]) -> list[Array]:
            trees = like_params.unflatten(theta), like_rest.unflatten(others), like_fixed.unflatten(known)
            return jax.tree.leaves(function(*trees))

        early = len(self._theta) + len(known)
        closed = taken_apart(run, self._theta, known, others, weights=early)
        forward = self._forward = _Forward(closed, len(self._theta), known)
        self.order, self.meetings = forward.order, forward.meetings
        weights = forward.weights(self._theta)
        values = [*weights, *others]
        of_params = [bool(forward.reads(number)) for number in range(len(weights))]
        learnt = [*of_params, *([True] * len(others))]  # all but constants, which lie on no mesh
        moved = [i for i, value in enumerate(values) if learnt[i] and jnp.issubdtype(value.dtype, jnp.inexact)]
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
        self._back = _Backward(taken_apart(back, values, cotangent), weights, others, len(moved), of_params)
        self.out, *results = self._back.results
        like_others: Any = jax.tree.structure(jax.eval_shape(function, params, rest, fixed)[1])
        self.others = like_others.unflatten(results)

    def weights(self, params: PyTree) -> list[Array]:
        """What the function computes from parameters and what is fixed, were they these."""
        return self._forward.weights(self._like[0].flatten_up_to(params))

    def met(self) -> PyTree:
        """For each leaf of `rest`: the numbers of the leaves of `params` that its signal meets; None if none comes."""

        def params_met(leaf: int) -> set[int] | None:
            weights = self._back.met(self._moved[leaf]) if leaf in self._moved else None
            return None if weights is None else {i for weight in weights for i in self._forward.reads(weight)}

        return self._like[1].unflatten([params_met(self._count + i) for i in range(self._like[1].num_leaves)])

    def pull(self, weights: Sequence[Array], cotangent: Array, meet: Meet | None = None) -> PyTree:
        """The cotangent of `rest` for one of out, over these weights. Linear in it; 0 where nothing can pass.

        Where a signal meets weights, `meet` may run an operation in its own way.
        """
        places = range(self._count, self._count + self._like[1].num_leaves)
        wanted = [i for i in places if i in self._moved]
        found = dict(zip(wanted, self._signals(wanted, weights, cotangent, meet), strict=True))
        return self._like[1].unflatten([found.get(i, jnp.zeros(())) for i in places])

    def gradient(self, weights: Sequence[Array], cotangent: Array) -> PyTree:
        """The cotangent of `params` for one of out: signals travel over these weights, the parameters learn their own.

        What the function computes of weights passes the gradient on by its own derivative.
        """
        wanted = [i for i in range(self._count) if i in self._moved]

        def learning(theta: Sequence[Array]) -> list[Array]:
            own = self._forward.weights(theta)
            return [own[i] for i in wanted]

        _, pull = jax.vjp(learning, self._theta)
        return self._like[0].unflatten(pull(self._signals(wanted, weights, cotangent))[0])

    def _signals(
        self, wanted: Sequence[int], weights: Sequence[Array], cotangent: Array, meet: Meet | None = None
    ) -> list[Array]:
        return self._back.signals([self._moved[i] for i in wanted], weights, varying_like(cotangent, self.out), meet)


class _Forward:
    """A program in two parts: what it computes from parameters, its first inputs, and what is fixed; and all else."""

    def __init__(self, closed: core.ClosedJaxpr, params: int, fixed: Sequence[Array]):
        first = params + len(fixed)
        jaxpr, consts, inputs = closed.jaxpr, closed.consts, closed.jaxpr.invars[:first]
        early = {*inputs, *jaxpr.constvars}
        before, after = [], []
        read = list(jaxpr.outvars)
        for eqn in jaxpr.eqns:
            if early.issuperset(variables(eqn.invars)):
                early.update(eqn.outvars)
                before.append(eqn)
            else:
                after.append(eqn)
                read += eqn.invars
        handed_on = [var for var in dict.fromkeys(variables(read)) if var in early]
        given, known = [*jaxpr.constvars, *inputs], len(consts)
        run_early = program(jaxpr, given, before, handed_on)
        trace = Trace(part(jaxpr, given, before, handed_on))
        run_late = program(jaxpr, [*handed_on, *jaxpr.invars[first:]], after, jaxpr.outvars)
        self.weights = lambda theta: run_early(*consts, *theta, *fixed)  # what the second part reads of the first
        self.activities = lambda weights, others: run_late(*weights, *others)  # the results
        # The parameters in a weight.
        self.reads = lambda weight: [i - known for i in trace.part([weight])[1] if 0 <= i - known < params]
        uses = dict.fromkeys(var for eqn in jaxpr.eqns for var in variables(eqn.invars))
        self.order = [inputs.index(var) for var in uses if var in inputs[:params]]
        numbers = {var: number for number, var in enumerate(handed_on)}
        self.meetings = [
            Meeting(eqn, place, numbers[atom])
            for eqn in after
            for place, atom in enumerate(eqn.invars)
            if variables([atom]) and atom in numbers
        ]


class _Backward:
    """A vector-Jacobian product (weights, others, cotangent) -> (some cotangents, results), and what passed in it."""

    def __init__(
        self,
        closed: core.ClosedJaxpr,
        weights: Sequence[Array],
        others: Sequence[Array],
        moved: int,
        of_params: Sequence[bool],
    ):
        jaxpr = closed.jaxpr
        given, cotangent = jaxpr.invars[:-1], jaxpr.invars[-1]
        of_weights, of_signals = {*given[: len(weights)], *jaxpr.constvars}, {cotangent}
        of_given = {var for var, own in zip(given, of_params, strict=False) if own}  # not of constants alone
        now, later = [], []
        for eqn in jaxpr.eqns:
            if not of_signals.isdisjoint(variables(eqn.invars)):
                of_signals.update(eqn.outvars)
                later.append(eqn)
                continue
            now.append(eqn)
            own = {var for var, read in zip(eqn.outvars, needs(eqn), strict=True) if read <= of_weights}
            of_weights |= own
            of_given |= {
                var for var, read in zip(eqn.outvars, needs(eqn), strict=True) if var in own and read & of_given
            }
            if own:  # computed anew; results that are not made of weights alone under names that nobody reads
                outvars = [var if var in own else type(var)(var.aval) for var in eqn.outvars]
                later.append(eqn.replace(outvars=outvars))
        read = dict.fromkeys(variables(atom for eqn in later for atom in eqn.invars))
        passed = [var for var in read if var not in of_weights and var not in of_signals]
        run_now = program(jaxpr, [*jaxpr.constvars, *given], now, [*jaxpr.outvars[moved:], *passed])
        known = run_now(*closed.consts, *weights, *others)
        results = len(jaxpr.outvars) - moved
        self.results, activities = known[:results], known[results:]
        inputs = [*jaxpr.constvars, *given[: len(weights)], cotangent, *passed]

        def where_they_meet(meet: Meet) -> Callable[[core.JaxprEqn, list[Array]], list[Array] | None]:
            def special(eqn: core.JaxprEqn, operands: list[Array]) -> list[Array] | None:
                atoms = [atom if variables([atom]) else None for atom in eqn.invars]
                sent, met = ([i for i, atom in enumerate(atoms) if atom in own] for own in (of_signals, of_given))
                return meet(eqn, operands, *sent) if len(sent) == len(met) == 1 else None

            return special

        def signals(
            wanted: Sequence[int], weights: Sequence[Array], cotangent: Array, meet: Meet | None
        ) -> list[Array]:
            ends = [i for i in wanted if not of_signals.isdisjoint(variables([jaxpr.outvars[i]]))]
            own = part(jaxpr, inputs, later, [jaxpr.outvars[i] for i in ends])
            values = [*closed.consts, *weights, cotangent, *activities]
            run = walk(own, (), values, where_they_meet(meet)) if meet else jax.core.eval_jaxpr(own, (), *values)
            found = dict(zip(ends, run, strict=True))
            like = closed.out_avals
            return [found[i] if i in found else jnp.zeros(like[i].shape, like[i].dtype) for i in wanted]

        def met(number: int) -> list[int] | None:
            if of_signals.isdisjoint(variables([jaxpr.outvars[number]])):
                return None
            first, last = len(jaxpr.constvars), len(jaxpr.constvars) + len(weights)  # where the cotangent is
            used = trace.reads(number)
            return [i - first for i in used if first <= i < last] if last in used else None

        trace = Trace(part(jaxpr, inputs, later, jaxpr.outvars[:moved]))
        self.met = met  # the weights that a signal meets on its way to the cotangent of this number; None if none comes
        self.signals = signals  # the cotangents of these numbers; zeros where no signal comes


def taken_apart(
    function: Callable[..., Sequence[Array]], *args: PyTree, weights: int | None = None
) -> core.ClosedJaxpr:
    """The traced function without jit and remat, whose operations are its own, and with selections for conditions.

    Args:
      function: of arrays.
      *args: its arguments.
      weights: how many leaves of these, the first, are parameters, if the result is to be differentiated: no error then
        comes back to what else enters a branch that is not taken.
    """
    closed = jax.make_jaxpr(function)(*args)
    values = jax.tree.leaves(args)
    early = [weights is None or number < weights for number in range(len(values))]
    return jax.make_jaxpr(lambda *values: _apart(closed.jaxpr, closed.consts, values, early))(*values)


def _apart(jaxpr: core.Jaxpr, consts: Sequence[Array], values: Sequence[Array], early: Sequence[bool]) -> list[Array]:
    weights = {*jaxpr.constvars, *(var for var, own in zip(jaxpr.invars, early, strict=True) if own)}

    def special(eqn: core.JaxprEqn, operands: list[Array]) -> list[Array] | None:
        name, own = eqn.primitive.name, [weights.issuperset(variables([atom])) for atom in eqn.invars]
        if all(own):
            weights.update(eqn.outvars)
        if name in CALLS:
            inner = eqn.params[CALLS[name]]
            return _apart(getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ()), operands, own)
        if name == 'cond':  # its branches would hand weights on as if they were activities
            (index, *rest), (_, *own) = operands, own
            found = []
            for number, branch in enumerate(eqn.params['branches']):
                taken = index == number
                given = [x if early else _gated(taken, x) for x, early in zip(rest, own, strict=True)]
                found.append(_apart(branch.jaxpr, branch.consts, given, own))
            return [_select(index, each) for each in zip(*found, strict=True)]
        # A remat in a loop's body would compute activities anew, from other weights.
        if name == 'scan' and runs(eqn.params['jaxpr'].jaxpr, 'remat2', 'checkpoint'):
            body, (first, carries) = eqn.params['jaxpr'], loop_inputs(eqn)
            inside = [early and not first <= i < first + carries for i, early in enumerate(own)]
            apart = jax.make_jaxpr(lambda *values: _apart(body.jaxpr, body.consts, values, inside))(*body.in_avals)
            return eqn.primitive.bind(*operands, **{**eqn.params, 'jaxpr': apart})
        return None

    return walk(jaxpr, consts, values, special)


def _gated(taken: Array, x: Array) -> Array:
    """x, to which no error comes back from a branch that is not taken: there it may be 0 times infinity."""
    return jnp.where(taken, x, jax.lax.stop_gradient(x)) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def _select(index: Array, cases: Sequence[Array]) -> Array:
    return functools.reduce(lambda last, case: jnp.where(index == case[0], case[1], last), enumerate(cases), cases[-1])
