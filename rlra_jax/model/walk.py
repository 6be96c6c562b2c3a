"""A traced program, run operation by operation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

from rlra_jax.types import Array

# Operations that run a program of their own once, operand by operand.
CALLS = {
    **dict.fromkeys(('jit', 'remat2', 'checkpoint'), 'jaxpr'),
    **dict.fromkeys(('closed_call', 'core_call'), 'call_jaxpr'),
}


def walk(
    jaxpr: core.Jaxpr,
    consts: Sequence[Array],
    values: Sequence[Array],
    special: Callable[[core.JaxprEqn, list[Array]], list[Array] | None],
) -> list[Array]:
    """The results of a program.

    Args:
      jaxpr: the program.
      consts: its constants.
      values: its arguments.
      special: (operation, operands) -> its results; None where it shall run as it is.
    """
    env: dict[core.Var, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        found = special(eqn, [read(atom) for atom in eqn.invars])
        if found is None:
            own = variables(dict.fromkeys(variables(eqn.invars)))
            found = program(jaxpr, own, [eqn], eqn.outvars)(*(env[var] for var in own))
        env |= zip(eqn.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def program(
    like: core.Jaxpr, invars: Sequence[core.Var], eqns: Sequence[core.JaxprEqn], outvars: Sequence[Any]
) -> Callable[..., list[Array]]:
    """Those of some operations that some variables need, as a function of others."""
    own = part(like, invars, eqns, outvars)
    return lambda *values: jax.core.eval_jaxpr(own, (), *values)


def part(
    like: core.Jaxpr, invars: Sequence[core.Var], eqns: Sequence[core.JaxprEqn], outvars: Sequence[Any]
) -> core.Jaxpr:
    """The same, as a program."""
    needed, kept = set(variables(outvars)), []
    for eqn in reversed(eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(variables(eqn.invars))
            kept.append(eqn)
    debug_info = like.debug_info._replace(arg_names=None, result_paths=None)
    kept.reverse()
    return like.replace(constvars=[], invars=list(invars), eqns=kept, outvars=list(outvars), debug_info=debug_info)


def variables(atoms: Iterable[Any]) -> list[core.Var]:
    """Those that are no literals."""
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def inner_programs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The traces that an operation runs: of jit its own, of scan and while the body, of cond every branch."""
    for traced in jax.tree.leaves(list(eqn.params.values())):
        inner = getattr(traced, 'jaxpr', traced)
        if isinstance(inner, core.Jaxpr):
            yield inner


def runs(jaxpr: core.Jaxpr, *names: str) -> bool:
    """Whether an operation of one of these names is in a program, or in one that it runs."""
    return any(
        eqn.primitive.name in names or any(runs(inner, *names) for inner in inner_programs(eqn)) for eqn in jaxpr.eqns
    )


def loop_inputs(eqn: core.JaxprEqn) -> tuple[int, int]:
    """How many of a scan's operands are the same at each iteration, and how many are carried, in this order."""
    if 'num_consts' in eqn.params:
        return eqn.params['num_consts'], eqn.params['num_carry']
    consts, carried, _ = eqn.params['ft_in'].unpack()  # since jax 0.12
    return len(list(consts)), len(list(carried))


def needs(eqn: core.JaxprEqn) -> list[set[core.Var]]:
    """For each result of an operation: the operands that it depends on."""
    if eqn.primitive.name != 'scan':
        return [set(variables(eqn.invars))] * len(eqn.outvars)
    body: Any = getattr(eqn.params['jaxpr'], 'jaxpr', eqn.params['jaxpr'])
    first, carries = loop_inputs(eqn)
    carried = body.invars[first : first + carries]
    known: dict[core.Var, set[int]] = {var: {i} for i, var in enumerate(body.invars)}
    grown = True
    while grown:
        for inner in body.eqns:
            for var, read in zip(inner.outvars, needs(inner), strict=True):
                known[var] = set().union(*(known.get(need, set()) for need in read))
        ends = [known.get(atom, set()) if variables([atom]) else set() for atom in body.outvars]
        grown = any(not end <= known[var] for var, end in zip(carried, ends, strict=False))
        known |= {var: known[var] | end for var, end in zip(carried, ends, strict=False)}
    return [set(variables(eqn.invars[i] for i in end)) for end in ends]
