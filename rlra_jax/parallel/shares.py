"""What each block adds to outputs that are a sum.

With readout skips the outputs are a sum of terms, each of which reads one region. Then no activity need travel to the
readout: every block adds the terms that read its own regions to what the outputs have got so far, and hands that on.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jax.extend import core

from rlra_jax.model.dependence import Trace
from rlra_jax.model.programs import Input, Program
from rlra_jax.model.walk import needs, variables
from rlra_jax.parallel.dissect import Part, by_first_use

SUM = '~+'  # stands for what the outputs have got so far where activities are named; no path has this name


class _Term(NamedTuple):
    """One of the variables of the outputs' program that add up to the outputs."""

    variable: core.Var
    regions: frozenset[str]  # whose activities it reads, or the batch's array
    params: frozenset[str]


class Shares:
    """A model whose outputs may be made block by block.

    Args:
      parts: the model taken apart, in forward order, the output last.

    Attributes:
      parts: as given.
      apart: the regions that the outputs read by terms of their own, without the highest that they read: its terms stay
        with the output. Empty where the outputs are no such sum; then one block makes them.
    """

    def __init__(self, parts: Mapping[str, Part]):
        self.parts = parts
        *hidden, self._output = parts
        output = parts[self._output]
        read = [name for name in hidden if name in output.parents]
        self._terms = _terms(output.own) if read[1:] and not output.stats else []
        self.apart = frozenset(name for name in read[:-1] if self._terms and _alone(name, self._terms))

    def of(self, regions: Iterable[str]) -> dict[str, Part]:
        """The parts of a block of these regions, in forward order; then its share of the outputs, if it has any.

        A share reads `SUM`, as every block does where `apart` is not empty.
        """
        found = {name: self.parts[name] for name in regions}
        if not self.apart:
            return found
        own = self.apart & found.keys()
        top = self._output in found
        added = [term for term in self._terms if term.regions & own or (top and not term.regions & self.apart)]
        if added:
            found[self._output] = _share(self.parts[self._output], [term.variable for term in added])
        return found


def _terms(own: Program) -> list[_Term]:
    """The outputs as a sum, as far as additions alone join what different regions contribute."""
    jaxpr: core.Jaxpr = own.jaxpr
    makers = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    reads: dict[core.Var, frozenset[Input]] = dict.fromkeys(jaxpr.constvars, frozenset())
    reads |= {var: frozenset([name]) for var, name in zip(jaxpr.invars, own.reads, strict=True)}
    for eqn in jaxpr.eqns:
        for var, needed in zip(eqn.outvars, needs(eqn), strict=True):
            reads[var] = frozenset().union(*(reads[need] for need in needed))

    def term(var: core.Var) -> _Term:
        regions, params = (
            frozenset(name for kind, name in reads[var] if kind in kinds) for kinds in (('z', 'x'), ('params',))
        )
        return _Term(var, regions, params)

    def addends(var: core.Var) -> list[_Term]:
        whole, eqn = term(var), makers.get(var)
        if len(whole.regions) < 2 or eqn is None or not _adds(eqn):
            return [whole]
        return list(itertools.chain(*map(addends, variables(eqn.invars))))

    return addends(*variables(jaxpr.outvars))


def _adds(eqn: core.JaxprEqn) -> bool:
    return eqn.primitive.name in ('add', 'add_any') and len(variables(eqn.invars)) == 2


def _alone(region: str, terms: Sequence[_Term]) -> bool:
    """Whether nothing else has a part in what is read of a region, nor parameters of it."""
    own = [term for term in terms if region in term.regions]
    params = frozenset().union(*(term.params for term in own))
    return all(term.regions == {region} if term in own else not term.params & params for term in terms)


def _share(output: Part, added: Sequence[core.Var]) -> Part:
    """The output's Part, but making `SUM` and some of its terms."""
    whole, consts, reads = output.own
    (result,) = whole.outvars
    add = next(eqn for eqn in whole.eqns if eqn.outvars == [result])
    jaxpr, used = Trace(whole.replace(outvars=list(added))).part(range(len(added)))
    before = total = type(result)(result.aval)
    eqns = list(jaxpr.eqns)
    for var in added:
        eqns.append(add.replace(invars=[total, var], outvars=[total := type(result)(result.aval)]))
    made = jaxpr.replace(invars=[before, *jaxpr.invars], eqns=eqns, outvars=[total])
    own = Program(made, consts, (('z', SUM), *(reads[i] for i in used)))
    twice = by_first_use(own._replace(jaxpr=made.replace(outvars=[total, total])))
    return output._replace(program=twice, own=own)
