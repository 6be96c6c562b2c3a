"""What an output depends on, read off the traced program; nothing is computed."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from rlra_jax.model.axes import make_jaxpr
from rlra_jax.model.walk import needs, variables
from rlra_jax.types import PyTree


class Trace:
    """A traced program of which the part behind some outputs can be had at a cost of that part's size.

    So a network's regions, each of which reads only its neighbours' activities, take time in proportion to their
    number, where eliminating dead code from the whole for each of them takes its square.
    """

    def __init__(self, jaxpr: core.Jaxpr):
        self._jaxpr = jaxpr
        self._makers = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in eqn.outvars}
        self._inputs = {var: i for i, var in enumerate(jaxpr.invars)}

    def part(self, outputs: Sequence[int]) -> tuple[core.Jaxpr, list[int]]:
        """(the program of these outputs alone, the numbers of the inputs that it takes, in order)."""
        ends = [self._jaxpr.outvars[i] for i in outputs]
        made: set[int] = set()
        inputs: set[int] = set()
        todo = list(ends)
        while todo:
            atom = todo.pop()
            if isinstance(atom, core.Literal):
                continue
            if atom in self._inputs:
                inputs.add(self._inputs[atom])
            elif atom in self._makers and self._makers[atom] not in made:  # not a constant
                made.add(self._makers[atom])
                todo += self._jaxpr.eqns[self._makers[atom]].invars
        reached = sorted(inputs)
        rough = self._jaxpr.replace(
            invars=[self._jaxpr.invars[i] for i in reached],
            outvars=ends,
            eqns=[self._jaxpr.eqns[i] for i in sorted(made)],
            debug_info=self._jaxpr.debug_info._replace(arg_names=None, result_paths=None),
        )
        program, used = partial_eval.dce_jaxpr(rough, [True] * len(ends))  # looks into calls, too
        return program, [i for i, uses in zip(reached, used, strict=True) if uses]

    def reads(self, output: int) -> list[int]:
        """The numbers of the inputs that an output depends on, a loop's start only where an iteration hands it on."""
        todo, seen, inputs = variables([self._jaxpr.outvars[output]]), set(), set()
        while todo:
            var = todo.pop()
            if var in seen:
                continue
            seen.add(var)
            if var in self._inputs:
                inputs.add(self._inputs[var])
            elif var in self._makers:
                eqn = self._jaxpr.eqns[self._makers[var]]
                todo += needs(eqn)[eqn.outvars.index(var)]
        return [i for i in self.part([output])[1] if i in inputs]


def dependence(function: Callable[..., Sequence[Any]], first: PyTree, *rest: PyTree) -> list[list[int]]:
    """For each array that function(first, *rest) returns: which leaves of `first`, in tree order, it depends on."""
    closed = make_jaxpr(function, first, *rest)
    trace, leaves = Trace(closed.jaxpr), len(jax.tree.leaves(first))
    return [[i for i in trace.part([output])[1] if i < leaves] for output in range(len(closed.out_avals))]
