"""The cut forward pass: every region's pre-activation, with no derivative path from one region to the next.

While a model is applied, the h of each `Site` is recorded and what leaves it is cut with `stop_gradient`. The Jacobian
of all h in the parameters is then block diagonal, so one vector-Jacobian product at the error neurons gives every
region's Eq. 5 update, whatever operations the region is made of.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax

from rlra_jax.axes import with_axes
from rlra_jax.frontend import frontend
from rlra_jax.types import Array, Model, Phi, PyTree, Variables
from rlra_jax.validate import check_variables

OUTPUT = 'output'


class Pass(NamedTuple):
    """What one cut forward pass yields."""

    h: dict[str, Array]  # region -> pre-activation [B, ...], in forward order; 'output': the logits [B, classes]
    phi: dict[str, Phi]  # hidden region -> its activation function
    variables: Variables  # the model's collections other than params, after the pass


def forward(
    model: Model,
    variables: Variables,
    x: Array,
    *,
    rngs: Array | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    leave: Callable[[str, Array], Array] = lambda name, z: lax.stop_gradient(z),
) -> Pass:
    """Applies the model and captures its regions.

    Args:
      model: maps x to logits; its activations are Sites.
      variables: {'params': ..., ...}, what linen's `model.init` or `rlra_jax.nnx.variables` returned.
      x: inputs `[B, ...]`.
      rngs: a key for dropout and every other random stream of the model.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      leave: (region, z) -> what leaves the Site: by default z, cut; noise is added here, or a state clamped.

    Raises:
      ValueError: a Site is called twice, has the name 'output', gets an h without the batch axis in front, changes its
        shape or returns what is not floating, or sits where its h cannot be seen; or the model does not return logits
        `[B, classes]`.
    """
    check_variables(variables)
    phi: dict[str, Phi] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    size = x.shape[0]

    def cut(name: str, site_phi: Phi, h: Array) -> Array:
        if name == OUTPUT:
            raise ValueError(f'the region {OUTPUT!r} is the logits; give the Site of that name another one')
        if name in phi:
            raise ValueError(f'Site {name!r} is called twice (or scanned); make one Site for each activation')
        if not hasattr(h, 'shape') or h.shape[:1] != (size,):
            came = jax.tree.map(jax.numpy.shape, h)
            raise ValueError(f'the h of Site {name!r} must have the {size} examples along its first axis; got {came}')
        phi[name], shapes[name] = site_phi, h.shape
        z = site_phi(h)
        if z.shape != h.shape:
            raise ValueError(f'phi of Site {name!r} must keep the shape of h, {h.shape}; it returned {z.shape}')
        if not jax.numpy.issubdtype(z.dtype, jax.numpy.floating):
            raise ValueError(f'phi of Site {name!r} must return a floating activity; it returned {z.dtype}')
        return leave(name, z)

    logits, seen, state = frontend(model).capture(model, variables, x, rngs, train_kwargs or {}, cut)
    hidden = sorted(name for name in {*phi, *seen} if name not in seen or shapes.get(name) != seen[name].shape)
    if hidden:
        raise ValueError(
            f'Sites {hidden} sit in a lifted transform that hides them (jit, scan or vmap of flax); '
            'jit the whole update instead, and unroll scanned layers. remat is fine.'
        )
    if not hasattr(logits, 'ndim') or logits.ndim != 2 or logits.shape[0] != size:
        came = jax.tree.map(jax.numpy.shape, logits)
        raise ValueError(f'the model must return logits [B, classes], here [{size}, classes]; got {came}')
    return Pass({name: seen[name] for name in phi} | {OUTPUT: logits}, phi, state)


def cut_vjp(
    model: Model, variables: Variables, x: Array, **kwargs: Any
) -> tuple[Pass, Callable[[Mapping[str, Array]], PyTree]]:
    """The cut pass and its pull: {region: cotangent of h} -> Eq. 5 updates in the tree of variables['params']."""
    rest = {name: value for name, value in variables.items() if name != 'params'}
    phi: dict[str, Phi] = {}

    def run(params: PyTree) -> tuple[dict[str, Array], Variables]:
        seen = forward(model, {'params': params, **rest}, x, **kwargs)
        phi.update(seen.phi)
        return seen.h, seen.variables

    h, pull, state = jax.vjp(run, variables['params'], has_aux=True)

    def pull_errors(errors: Mapping[str, Array]) -> PyTree:
        (update,) = pull({name: errors[name].astype(h[name].dtype) for name in h})
        return update

    return Pass({name: h[name] for name in (*phi, OUTPUT)}, phi, state), pull_errors


def activations(model: Model, x: Array, *, train_kwargs: Mapping[str, Any] | None = None) -> dict[str, Phi]:
    """Hidden region -> its activation function, in forward order; nothing is computed. Arguments: as for `sites`."""
    phi: dict[str, Phi] = {}

    def run(key: Array, x: Array) -> None:
        variables = frontend(model).init(model, key, x, train_kwargs or {})
        phi.update(forward(model, variables, x, rngs=key, train_kwargs=train_kwargs).phi)

    with_axes(jax.eval_shape, run, jax.random.key(0), x)
    return phi
