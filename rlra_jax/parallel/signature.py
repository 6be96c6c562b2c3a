"""What tells two regions' programs apart, where JAX prints both alike.

The text of a traced program says nothing of the constants within an inner `jit`, of the derivative rules behind
`custom_jvp` and `custom_vjp`, or of which function a callback calls.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from rlra_jax.types import Array


def signature(program: core.Jaxpr, h_program: core.Jaxpr, consts: Sequence[Array], learnt: Sequence[int]) -> str:
    """Equal for programs that compute the same function, and h by the same derivative.

    Args:
      program: of all that a region computes.
      h_program: of its h alone.
      consts: what the constants of both stand for.
      learnt: which inputs of h_program are parameters.
    """
    parts = [str(program), *_hidden(program)]
    if learnt and 'custom_' in str(h_program):  # the rules show in the program of the derivative
        derivative = _derivative(h_program, consts, learnt).jaxpr
        parts += [str(derivative), *_hidden(derivative)]
    return '\n'.join(parts)


def _derivative(program: core.Jaxpr, consts: Sequence[Array], learnt: Sequence[int]) -> core.ClosedJaxpr:
    """Of the sum of what the program computes, in the inputs that are learnt."""

    def run(*inputs: Array) -> tuple[Array, ...]:
        def h(own: Sequence[Array]) -> Array:
            given = dict(enumerate(inputs)) | dict(zip(learnt, own, strict=True))
            return jax.core.eval_jaxpr(program, consts, *given.values())[0]

        value, pull = jax.vjp(h, [inputs[i] for i in learnt])
        return pull(jax.numpy.ones_like(value))

    shapes: list[Any] = [v.aval for v in program.invars]
    return jax.make_jaxpr(run)(*(jax.ShapeDtypeStruct(each.shape, each.dtype) for each in shapes))


def _hidden(jaxpr: core.Jaxpr) -> Iterator[str]:
    """The values of the constants of inner programs, and the identities of the functions that callbacks call."""
    for eqn in jaxpr.eqns:
        for value in jax.tree.leaves(tuple(eqn.params.values())):
            if isinstance(value, core.ClosedJaxpr):
                yield from map(_digest, value.consts)
                yield from _hidden(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                yield from _hidden(value)
        if 'callback' in eqn.params:
            yield str(id(getattr(eqn.params['callback'], 'callback_func', eqn.params['callback'])))


def _digest(constant: Any) -> str:
    if isinstance(constant, jax.core.Tracer) or jax.dtypes.issubdtype(constant.dtype, jax.dtypes.extended):
        return str(id(constant))
    value = np.asarray(constant)
    return f'{value.shape} {value.dtype} {hashlib.sha256(value.tobytes()).hexdigest()}'
