"""The cut forward pass: every region's pre-activation, with no derivative path from one region to the next.

While a linen model is applied, an interceptor records the h of each `Site` and cuts what leaves it with
`stop_gradient`. The Jacobian of all h in the parameters is then block diagonal, so one vector-Jacobian product at the
error neurons gives every region's Eq. 5 update, whatever operations the region is made of.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rlra_jax.site import Site
from rlra_jax.types import Array, Phi, PyTree, Region, Variables

OUTPUT = 'output'
_COLLECTION = 'rlra'


class Pass(NamedTuple):
    """What one cut forward pass yields."""

    h: dict[str, Array]  # region -> pre-activation [B, ...], in forward order; 'output': the logits [B, classes]
    phi: dict[str, Phi]  # hidden region -> its activation function
    variables: Variables  # the model's collections other than params, after the pass


def forward(
    model: nn.Module,
    variables: Variables,
    x: Array,
    *,
    rngs: Array | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    leave: Callable[[str, Array], Array] = lambda name, z: lax.stop_gradient(z),
) -> Pass:
    """Applies the model and captures its regions.

    Args:
      model: a linen module that maps x to logits and whose activations are Sites.
      variables: what `model.init` returned.
      x: inputs `[B, ...]`.
      rngs: a key for dropout and every other random stream of the model.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      leave: (region, z) -> what leaves the Site: by default z, cut; noise is added here, or a state clamped.

    Raises:
      ValueError: a Site is called twice, has the name 'output', or sits where its h cannot be seen; or the model
        does not return logits `[B, classes]`.
    """
    phi: dict[str, Phi] = {}

    def cut(next_fun, args, kwargs, context):
        site = context.module
        if not isinstance(site, Site) or context.method_name != '__call__':
            return next_fun(*args, **kwargs)
        name = '/'.join(site.path) or 'site'
        if name in phi or name == OUTPUT:
            reason = 'is called twice (or scanned)' if name in phi else 'takes the name of the output region'
            raise ValueError(f'Site {name!r} {reason}; make one Site per activation, each with a name of its own')
        phi[name] = site.phi
        site.sow(_COLLECTION, 'h', args[0])
        z = next_fun(*args, **kwargs)
        if z.shape != args[0].shape:
            raise ValueError(f'phi of Site {name!r} must keep the shape of h, {args[0].shape}; it returned {z.shape}')
        return leave(name, z)

    mutable = [_COLLECTION, *(name for name in variables if name != 'params')]
    with nn.intercept_methods(cut):
        logits, state = model.apply(variables, x, rngs=rngs, mutable=mutable, **(train_kwargs or {}))
    state = dict(state)
    sown = flax.traverse_util.flatten_dict(state.pop(_COLLECTION, {}), sep='/')
    seen = {name.removesuffix('/h') for name in sown}
    if seen != set(phi):
        raise ValueError(
            f'Sites {sorted(seen ^ set(phi))} sit in a lifted transform that hides them (nn.jit, nn.scan); '
            'jit the whole update instead, and unroll scanned layers. nn.remat is fine.'
        )
    h = {name: sown[f'{name}/h'][-1] for name in phi}
    if not hasattr(logits, 'ndim') or logits.ndim != 2:
        raise ValueError(f'the model must return logits [B, classes]; got {jax.tree.map(jnp.shape, logits)}')
    return Pass(h | {OUTPUT: logits}, phi, state)


def cut_vjp(
    model: nn.Module, variables: Variables, x: Array, **kwargs: Any
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


def sites(model: nn.Module, x: Array, *, train_kwargs: Mapping[str, Any] | None = None) -> tuple[Region, ...]:
    """The model's regions in forward order, the output last; nothing is computed.

    Args:
      model: as for `forward`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      train_kwargs: as for `forward`.
    """
    order: list[str] = []

    def run(key: Array, x: Array) -> dict[str, Array]:
        variables = model.init(key, x, **(train_kwargs or {}))
        seen = forward(model, variables, x, rngs=key, train_kwargs=train_kwargs)
        order.extend(seen.h)
        return seen.h

    h = jax.eval_shape(run, jax.random.key(0), x)
    return tuple(Region(name, h[name].shape, h[name].dtype) for name in order)


def activations(model: nn.Module, x: Array, *, train_kwargs: Mapping[str, Any] | None = None) -> dict[str, Phi]:
    """Hidden region -> its activation function, in forward order; nothing is computed. Arguments: as for `sites`."""
    phi: dict[str, Phi] = {}

    def run(key: Array, x: Array) -> None:
        variables = model.init(key, x, **(train_kwargs or {}))
        phi.update(forward(model, variables, x, rngs=key, train_kwargs=train_kwargs).phi)

    jax.eval_shape(run, jax.random.key(0), x)
    return phi
