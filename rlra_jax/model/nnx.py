"""The front end for `flax.nnx` modules: a `Site` of theirs is told what stands in for its phi."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import nnx

from rlra_jax.model.call import with_key
from rlra_jax.model.site import captured, capturing
from rlra_jax.paths import join
from rlra_jax.types import Array, Batch, Call, OnSite, Phi, Variables
from rlra_jax.validate import require_phi


class Site(nnx.Module):
    """Marks an activation as the end of a region, as `rlra_jax.Site` does in linen; each call makes one.

    Args:
      phi: any function of h `[B, ...]` that keeps its shape, one example at a time; it needs no
        derivative. One that mixes units must have a symmetric Jacobian, as softmax has; see `check_phi`.
    """

    def __init__(self, phi: Phi) -> None:
        require_phi('phi', phi)
        self.phi = phi
        self.visit: Callable[[Site, Array], Array] | None = None  # stands in for phi while regions are captured

    def __call__(self, h: Array) -> Array:
        if self.visit is None and capturing.get():
            raise ValueError(
                'an nnx.Site must be an attribute of an nnx model, made in its __init__: this one would be no end of a '
                'region. Linen models take rlra_jax.Site'
            )
        return self.phi(h) if self.visit is None else self.visit(self, h)


class _PreActivations(nnx.Variable):
    """The h of a Site's calls, on their way out of the pass, also through transforms such as nnx.remat."""


def variables(model: nnx.Module) -> dict[str, Any]:
    """The module's state as {'params': nested dict, 'batch_stats': ..., ...}; no random streams, nothing sown."""
    found: dict[str, Any] = flax.traverse_util.unflatten_dict(_values(model))
    return found


def merge(model: nnx.Module, variables: Variables, rngs: Array | None = None) -> nnx.Module:
    """A new module like model with these variables, and with random streams drawn from rngs if that is given.

    Raises:
      ValueError: the variables are not those of this model.
    """
    graph, state = nnx.split(model)
    given = _flat(variables, _values(model))
    merged = []
    for index, (path, variable) in enumerate(nnx.to_flat_state(state)):
        if _is_kept(variable):
            if (key := _key(path, variable)) not in given:
                raise ValueError(f'the model has {key[0]} {"/".join(key[1:])!r}, but the variables do not')
            variable = variable.replace(given.pop(key))
        elif isinstance(variable, nnx.RngKey) and rngs is not None:
            variable = variable.replace(jax.random.split(jax.random.fold_in(rngs, index), variable.get_value().shape))
        merged.append((path, variable))
    if given:
        raise ValueError(f'the model has no variables {["/".join(key) for key in given]}')
    return nnx.merge(graph, nnx.from_flat_state(merged), copy=True)


def _values(model: nnx.Module) -> dict[tuple[str, ...], Any]:
    """(collection, *path) -> the value of that variable, which may be empty or hold a dict."""
    return {_key(path, own): own.get_value() for path, own in nnx.to_flat_state(nnx.state(model)) if _is_kept(own)}


def _is_kept(own: Any) -> bool:
    """Not random streams, what a pass sows, or arrays that are attributes without being variables."""
    return isinstance(own, nnx.Variable) and not isinstance(own, nnx.RngState | nnx.Intermediate)


def _flat(variables: Variables, own: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], Any]:
    """The same of a tree of variables; own: those that the model has."""
    flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(
        dict(variables), is_leaf=lambda key, _: key in own
    )
    return flat


def _key(path: tuple[Any, ...], variable: nnx.Variable[Any]) -> tuple[str, ...]:
    return (_collection(variable), *map(str, path))


def _collection(variable: nnx.Variable) -> str:
    """Every kind of nnx.Param learns."""
    if isinstance(variable, nnx.Param):
        return 'params'
    return nnx.variable_name_from_type(type(variable), allow_register=True)


def init(model: nnx.Module, call: Call, key: Array, batch: Batch) -> Variables:
    """Copies of the variables that the module holds: it was initialised when it was made, and is not used up."""
    return jax.tree.map(jnp.copy, variables(model))


def apply(
    model: nnx.Module, call: Call, variables: Variables, batch: Batch, rngs: Array | None
) -> tuple[Array, Variables]:
    """(what the call returns, the model's collections other than params after the pass)."""
    module = merge(model, variables, rngs)
    return with_key(call, rngs)(module, batch), _rest(module, variables)


def capture(
    model: nnx.Module, call: Call, variables: Variables, batch: Batch, rngs: Array | None, on_site: OnSite, record: bool
) -> tuple[Array, dict[str, tuple[Array, ...]], Variables]:
    """`apply` with on_site in the place of every Site's phi; in the middle, if record says so, {path: h of calls}."""
    module = merge(model, variables, rngs)

    def visit(name: str, site: Site, h: Array) -> Array:
        if record:
            before = site.h.get_value() if hasattr(site, 'h') else ()
            site.h = _PreActivations((*before, h))
        return on_site(name, site.phi, h)

    for path, site in nnx.iter_modules(module):
        if isinstance(site, Site):
            site.visit = functools.partial(visit, join(path))
    with captured():
        y = with_key(call, rngs)(module, batch)
    seen = nnx.to_flat_state(nnx.pop(module, _PreActivations))
    return y, {join(path[:-1]): h.get_value() for path, h in seen}, _rest(module, variables)


def _rest(module: nnx.Module, given: Variables) -> Variables:
    """The collections other than params, without what the pass sowed beside what was given."""
    after = _values(module)
    kept = _flat({name: tree for name, tree in given.items() if name != 'params'}, after)
    return flax.traverse_util.unflatten_dict({key: after[key] for key in kept})
