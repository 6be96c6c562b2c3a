"""What each region is made of: which parameters, and which non-linear operations between its inputs and its h.

Inside a region gradients flow as in backprop. An activation without a Site there, such as one that a block brings of
its own, is trained through by its derivative, which the user may not have meant.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import jax
from jax.extend import core

from rlra_jax.model.programs import CutModel
from rlra_jax.model.walk import inner_programs

# Primitives that are linear, or affine, in all of their operands together.
_LINEAR = frozenset(
    """add add_any all_gather all_to_all broadcast_in_dim concatenate convert_element_type copy copy_p cumsum device_put
    expand_dims name neg optimization_barrier pad pbroadcast ppermute psum psum2 psum_invariant pvary reduce_precision
    reduce_sum reduce_window_sum reshape rev sharding_constraint slice split squeeze sub tile transpose""".split()  # noqa: SIM905
)
_BILINEAR = {'conv_general_dilated', 'dot_general', 'mul'}  # linear where one operand alone comes from the input
# Linear in some operands, those with these numbers: a quotient in its numerator, a choice in what is chosen from.
_LINEAR_IN = {
    'div': (0,),
    'dynamic_slice': (0,),
    'dynamic_update_slice': (0, 1),
    'gather': (0,),
    'scatter': (0, 2),
    'scatter-add': (0, 2),
}
_NAMED = frozenset(vars(jax.nn))
_JAX_NN = str(pathlib.Path(jax.__file__).parent / '_src' / 'nn')
_NORMALISATION = tuple(
    str(pathlib.Path(flax.__file__).parent.joinpath(*parts))
    for parts in (('linen', 'normalization.py'), ('nnx', 'nn', 'normalization.py'))
)


class Made(NamedTuple):
    """What a region is made of."""

    params: tuple[str, ...]  # paths of the parameters that reach h without passing a Site
    nonlinear: tuple[str, ...]  # operations: functions of jax.nn and 'normalisation' by name, others by primitive


def made_of(cut: CutModel) -> dict[str, Made]:
    """Region -> what it is made of, in forward order; nothing is computed."""
    found = {}
    for name, program in cut.programs().items():
        operations: dict[str, None] = {}
        _collect(program.jaxpr, [kind in ('z', 'x') for kind, _ in program.reads], operations)
        found[name] = Made(program.named('params'), tuple(operations))
    return found


def _collect(program: core.Jaxpr, flows: Sequence[bool], found: dict[str, None]) -> None:
    """Adds the operations that are not linear in what flows in through the inputs told so."""
    live = {var for var, flow in zip(program.invars, flows, strict=True) if flow}
    for eqn in program.eqns:
        into = [not isinstance(atom, core.Literal) and atom in live for atom in eqn.invars]
        if not any(into):
            continue
        live.update(eqn.outvars)
        own: dict[str, None] = {}
        inner = list(inner_programs(eqn))
        for each in inner:
            # A loop's or a branch's operands are not in the order of its program's; all are taken to flow then.
            _collect(each, into if len(each.invars) == len(into) else [True] * len(each.invars), own)
        if not inner and not _is_linear(eqn, into):
            own[eqn.primitive.name] = None
        name = _name(eqn)
        found |= {name: None} if own and name else own


def _is_linear(eqn: core.JaxprEqn, into: Sequence[bool]) -> bool:
    name = eqn.primitive.name
    if name in _LINEAR or name in _BILINEAR:
        return name in _LINEAR or sum(into) == 1
    if name == 'select_n':
        return not into[0]
    return name in _LINEAR_IN and all(i in _LINEAR_IN[name] for i, flow in enumerate(into) if flow)


def _name(eqn: core.JaxprEqn) -> str | None:
    """What people call the operation, if they do."""
    frames: Any = eqn.source_info.traceback.frames if eqn.source_info.traceback else ()
    if any(frame.file_name in _NORMALISATION for frame in frames):
        return 'normalisation'
    calls = [frame.function_name.lstrip('_') for frame in frames if frame.file_name.startswith(_JAX_NN)]
    # Of functions that were traced before, frames tell nothing, but the name of the call does.
    return next((name for name in (*reversed(calls), eqn.params.get('name')) if name in _NAMED), None)
