"""Whether an activation function hands errors back to the units that they belong to.

Error neurons e = z - y are the Jacobian J of phi times a displacement, where the gradient has its transpose. So J must
be symmetric, as it is for functions of each unit alone, for softmax or for a normalisation to unit length.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from rlra_jax.types import Array, Phi

_UNIT_BY_UNIT = """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos cosh digamma div eq
    erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg
    not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor
"""
_ROUNDING = 0.02  # of phi that computes in bfloat16
_CALLS = {'jit': 'jaxpr', 'custom_jvp_call': 'call_jaxpr', 'custom_vjp_call': 'call_jaxpr', 'checkpoint': 'jaxpr'}


def check_phi(name: str, phi: Phi, h: Array) -> None:
    """Raises ValueError if the Site's phi has a Jacobian that is not symmetric.

    Nothing is computed for functions of each unit alone. Others are tried on random numbers; what has no derivative
    passes.

    Args:
      name: of the Site.
      phi: its activation function.
      h: the pre-activation `[B, ...]`; only its shape and dtype matter.
    """
    like = jax.ShapeDtypeStruct(h.shape, jnp.promote_types(h.dtype, jnp.float32))
    closed = jax.make_jaxpr(phi)(like)
    if not _unit_by_unit(closed.jaxpr, [True]) and not _symmetric(closed, like):
        raise ValueError(
            f'phi of Site {name!r} mixes units, and its Jacobian is not symmetric, so errors would come back to other '
            'units than they belong to; mix outside the Site, before h or after z'
        )


def _unit_by_unit(jaxpr: core.Jaxpr, of_h: list[bool]) -> bool:
    """Whether each operation on what depends on h keeps every unit in its place."""
    found = {var for var, yes in zip(jaxpr.invars, of_h, strict=True) if yes}
    for eqn in jaxpr.eqns:
        reads = [not isinstance(atom, core.Literal) and atom in found for atom in eqn.invars]
        if not any(reads):
            continue
        kind = eqn.primitive.name
        if kind in _CALLS:
            inner = eqn.params[_CALLS[kind]]
            same = _unit_by_unit(getattr(inner, 'jaxpr', inner), reads)
        else:
            same = kind in _UNIT_BY_UNIT.split()
        if not same:
            return False
        found.update(eqn.outvars)
    return True


def _symmetric(closed: core.ClosedJaxpr, like: jax.ShapeDtypeStruct) -> bool:
    """Whether J u = J^T u for random h and u."""
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), 2 + len(closed.consts))
        consts = [_known(value, key) for value, key in zip(closed.consts, keys[2:], strict=True)]
        h, u = (jax.random.normal(key, like.shape, like.dtype) for key in keys[:2])
        z, pull = jax.vjp(lambda h: jax.core.eval_jaxpr(closed.jaxpr, consts, h)[0], h)
        (back,), forth = jax.vjp(pull, u.astype(z.dtype))
        (ahead,) = forth((u,))
        missed, size = jnp.linalg.norm((ahead - back).ravel()), jnp.linalg.norm(back.ravel())
        return bool(missed <= _ROUNDING * size)


def _known(value: Any, key: Array) -> Any:
    """What phi closes over; of an array that is being traced, one like it."""
    if not isinstance(value, jax.core.Tracer):
        return value
    floating = jnp.issubdtype(value.dtype, jnp.floating)
    return jax.random.normal(key, value.shape, value.dtype) if floating else jnp.ones(value.shape, value.dtype)
