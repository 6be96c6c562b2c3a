"""A model taken apart: every region's pre-activation as a program of its own.

The cut forward pass is traced once, with what leaves every Site replaced by a fresh input. Each region's
pre-activation then depends on its own parameters and on the activities before it alone. Dead-code elimination of the
traced program gives the region as a program of its own, whatever the model looks like.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from rlra_jax.model import walk
from rlra_jax.model.axes import with_axes
from rlra_jax.model.backward_pass import BackwardPass
from rlra_jax.model.capture import Pass, forward, in_order
from rlra_jax.model.dependence import Trace
from rlra_jax.model.net import Net
from rlra_jax.paths import flatten, refill
from rlra_jax.types import Array, Batch, Phi, Variables

Flat = Mapping[str, Array]  # {'dense_1/kernel': leaf}: a tree with one key per leaf
Values = Mapping[str, Flat]  # {'params', 'stats', 'z', 'x', 'key'} -> {name: value}; x: of the batch; key's is ''
Input = tuple[str, str]  # (kind, name) of a value
FIXED = ('stats', 'key')  # the kinds that weights are made of, beside parameters


class Program(NamedTuple):
    """h of a region as a function of what it reads."""

    jaxpr: Any
    consts: list[Any]
    reads: tuple[Input, ...]  # of each argument

    def run(self, values: Values) -> Array:
        """H `[B, ...]`. Values beyond those that it reads may be present."""
        (h,) = jax.core.eval_jaxpr(self.jaxpr, self.consts, *(values[kind][name] for kind, name in self.reads))
        return h

    def named(self, kind: str) -> tuple[str, ...]:
        """The names of a kind that it reads."""
        return tuple(name for own, name in self.reads if own == kind)

    def scanned(self) -> dict[str, 'Scanned']:
        """The parameters of which a loop reads a part at each iteration, by name."""
        inputs = zip(self.jaxpr.invars, self.reads, strict=True)
        return _scanned(self.jaxpr, {atom: (name, 0) for atom, (kind, name) in inputs if kind == 'params'}, 0)


class Scanned(NamedTuple):
    """How a loop reads a parameter, a part at each iteration."""

    axis: int  # of the parameter
    depth: int  # how many other loops hold the loop


def _scanned(jaxpr: Any, axes: dict[Any, tuple[str, int]], depth: int) -> dict[str, Scanned]:
    """Axes: {variable: (the parameter it holds, the axis that is first in it)}."""
    found: dict[str, Scanned] = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == 'transpose' and axes.keys() & walk.variables(eqn.invars):
            axes[eqn.outvars[0]] = (axes[eqn.invars[0]][0], eqn.params['permutation'][0])
        if eqn.primitive.name == 'scan':
            whole, first = walk.loop_inputs(eqn)[0], sum(walk.loop_inputs(eqn))
            held = [axes[atom] for atom in walk.variables(eqn.invars[first:]) if atom in axes]
            body = getattr(eqn.params['jaxpr'], 'jaxpr', eqn.params['jaxpr'])
            inner = {
                own: axes[atom]
                for own, atom in zip(body.invars[:whole], eqn.invars[:whole], strict=True)
                if axes.keys() & walk.variables([atom])
            }
            found |= _scanned(body, inner, depth + 1) | {name: Scanned(axis, depth) for name, axis in held}
    return found


class CutModel(NamedTuple):
    """A model's cut pass as one traced program."""

    trace: Trace
    consts: list[Any]
    inputs: list[Input]
    outputs: dict[Input, int]  # ('h' | 'z' | 'stats', name) -> number of the output
    phi: dict[str, Phi]  # hidden region -> its activation function, in forward order
    h: dict[str, jax.ShapeDtypeStruct]  # region -> its pre-activation, in forward order
    values: Values  # shapes of all inputs

    def reads(self, outputs: list[int]) -> set[Input]:
        """What these outputs depend on."""
        return {self.inputs[i] for i in self.trace.part(outputs)[1]}

    def programs(self) -> dict[str, Program]:
        """Region -> its program, in forward order."""
        found = {}
        for name in self.h:
            jaxpr, used = self.trace.part([self.outputs['h', name]])
            found[name] = Program(jaxpr, self.consts, tuple(self.inputs[i] for i in used))
        return found


def cut_model(net: Net, variables: Variables, batch: Batch, key: Array) -> CutModel:
    """Traces the cut pass; nothing is computed.

    Args:
      net: the model and its call.
      variables: {'params': ..., ...}; this, the batch and key may be jax.ShapeDtypeStructs.
      batch: what the call reads; the programs are for its shapes and dtypes.
      key: for the model's random streams.
    """
    phi: dict[str, Phi] = {}
    look = functools.partial(forward, net)
    seen = with_axes(jax.eval_shape, lambda v, x, k: _activities(look(v, x, rngs=k)), variables, dict(batch), key)
    params, stats = split(variables)
    values = {'key': {'': key}, 'x': dict(batch), 'z': seen, 'params': params, 'stats': stats}

    def run(values: Values) -> dict[str, dict[str, Array]]:
        def leave(name: str, value: Array, own: Array) -> Array:
            return own

        rest = {name: value for name, value in variables.items() if name != 'params'}
        whole = {'params': refill(variables['params'], values['params']), **refill(rest, values['stats'])}
        seen = forward(net, whole, values['x'], rngs=values['key'][''], leave=leave, given=values['z'])
        phi.update(seen.phi)
        return {'h': seen.h, 'z': {**seen.h, **_activities(seen)}, 'stats': flatten(seen.variables)}

    closed, out = with_axes(lambda run, values: jax.make_jaxpr(run, return_shape=True)(values), run, values)
    h = {name: out['h'][name] for name in in_order(out['h'], phi)}
    outputs = {slot: i for i, slot in enumerate(_names(out))}
    return CutModel(Trace(closed.jaxpr), closed.consts, _names(values), outputs, phi, h, values)


def split(variables: Variables) -> tuple[dict[str, Array], dict[str, Array]]:
    """({'dense_1/kernel': leaf}, {'batch_stats/norm/mean': leaf}): parameters, and all other collections."""
    return flatten(variables['params']), flatten({k: v for k, v in variables.items() if k != 'params'})


def _activities(seen: Pass) -> dict[str, Array]:
    """Z of each hidden region, computed from h here: within nn.remat what `leave` is handed could not come out."""
    return {name: phi(seen.h[name]) for name, phi in seen.phi.items()}


def _names(tree: Mapping[str, Mapping[str, Any]]) -> list[Input]:
    """(kind, name) of each leaf, in JAX's order of dictionaries."""
    return [(kind, name) for kind, group in sorted(tree.items()) for name in sorted(group)]


def way_back(program: Program, values: Values) -> BackwardPass:
    """The backward pass of a region's pre-activation, over other parameters than those that it reads.

    Args:
      program: of the pre-activation.
      values: all that the program reads, as it passed.
    """
    read = {kind: {name: values[kind][name] for name in program.named(kind)} for kind in values}
    params, fixed = read.pop('params'), {kind: read.pop(kind, {}) for kind in FIXED}

    def run(params: Flat, rest: Values, fixed: Values) -> tuple[Array, tuple[()]]:
        return program.run({'params': params, **rest, **fixed}), ()

    return BackwardPass(run, params, read, fixed)
