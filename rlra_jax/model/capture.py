"""The cut forward pass: every region's pre-activation, with no derivative path from one region to the next.

While a model is applied, the h of each `Site` is recorded and what leaves it is cut with `stop_gradient`. The Jacobian
of all h in the parameters is then block diagonal, so one vector-Jacobian product at the error neurons gives every
region's Eq. 5 update, whatever operations the region is made of.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from rlra_jax.model.axes import with_axes
from rlra_jax.model.frontend import frontend
from rlra_jax.model.net import Net
from rlra_jax.paths import join, join_call, split
from rlra_jax.types import Array, Batch, GivenBatch, Outputs, Phi, PyTree, Variables
from rlra_jax.validate import check_variables

OUTPUT = 'output'


class Pass(NamedTuple):
    """What one cut forward pass yields."""

    h: dict[str, Array]  # region -> pre-activation [B, ...], in forward order; of an output, what the model returns
    phi: dict[str, Phi]  # hidden region -> its activation function
    variables: Variables  # the model's collections other than params, after the pass


def by_region(outputs: Outputs) -> dict[str, Array]:
    """{'output': the array that the model returns}, or {'output/NAME': array} of several by name."""
    if isinstance(outputs, Mapping):
        return {join((OUTPUT, name)): value for name, value in outputs.items()}
    return {OUTPUT: outputs}


def by_name(regions: Mapping[str, Any], outputs: Sequence[str]) -> Outputs:
    """What is known of outputs as the model returns them: of one itself, of several by their names.

    Args:
      regions: region -> that, at least of the outputs.
      outputs: which regions these are.
    """
    if tuple(outputs) == (OUTPUT,):
        return regions[OUTPUT]
    return {split(name)[-1]: regions[name] for name in outputs}


def forward(
    net: Net,
    variables: Variables,
    batch: Batch,
    *,
    rngs: Array | None = None,
    leave: Callable[[str, Array], Array] = lambda name, z: lax.stop_gradient(z),
) -> Pass:
    """Applies the model and captures its regions.

    Args:
      net: the model and its call.
      variables: {'params': ..., ...}, what linen's `model.init` or `rlra_jax.nnx.variables` returned.
      batch: what the call reads, each array `[B, ...]`.
      rngs: a key for dropout and every other random stream of the model.
      leave: (region, z) -> what leaves the Site: by default z, cut; noise is added here, or a state clamped.

    Raises:
      ValueError: a Site has the name of an output, gets an h without the batch axis in front, changes its shape or
        returns what is not floating, or sits where its h cannot be seen; the call returns neither a floating array
        `[B, ...]` nor several by name; or it makes other regions than those of the net.
    """
    check_variables(variables)
    phi: dict[str, Phi] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    calls: dict[str, list[str]] = {}  # Site -> the regions that its calls make
    size = batch_size(batch)

    def cut(site: str, site_phi: Phi, h: Array) -> Array:
        made = calls.setdefault(site, [])
        name = join_call(site, len(made)) if made or site in net.repeated else site
        made.append(name)
        if not hasattr(h, 'shape') or h.shape[:1] != (size,):
            shape = jax.tree.map(jax.numpy.shape, h)
            raise ValueError(f'the h of Site {name!r} must have the {size} examples along its first axis; got {shape}')
        phi[name], shapes[name] = site_phi, h.shape
        z = site_phi(h)
        if z.shape != h.shape:
            raise ValueError(f'phi of Site {name!r} must keep the shape of h, {h.shape}; it returned {z.shape}')
        if not jax.numpy.issubdtype(z.dtype, jax.numpy.floating):
            raise ValueError(f'phi of Site {name!r} must return a floating activity; it returned {z.dtype}')
        return leave(name, z)

    outputs, seen, state = frontend(net.model).capture(net.model, net.call, variables, batch, rngs, cut)
    came = {site: [h.shape for h in own] for site, own in seen.items()}
    hidden = sorted(
        site for site in {*calls, *seen} if came.get(site) != [shapes[name] for name in calls.get(site, ())]
    )
    if hidden:
        raise ValueError(
            f'Sites {hidden} sit in a lifted transform that hides them (jit, scan or vmap of flax); '
            'jit the whole update instead, and unroll scanned layers. remat is fine.'
        )
    returned = by_region(outputs)
    if not returned or not all(_is_output(value, size) for value in returned.values()):
        came = jax.tree.map(lambda leaf: f'{leaf.dtype} {leaf.shape}' if hasattr(leaf, 'shape') else leaf, outputs)
        raise ValueError(
            f'the model must return a floating array [B, ...], here [{size}, ...], or several by name; got {came}'
        )
    for name in returned.keys() & calls.keys():
        raise ValueError(f'the region {name!r} is what the model returns; give the Site of that name another one')
    found = {name: h for site, names in calls.items() for name, h in zip(names, seen[site], strict=True)}
    known = [region.name for region in net.regions]
    if known and (known[: len(phi)] != [*phi] or {*known[len(phi) :]} != {*returned}):
        other = sorted({*phi, *returned} ^ {*known}) or 'the same in another order'
        raise ValueError(
            f'the regions of a net are those of its example, which a batch of other shapes must have too; they differ '
            f'in {other}. Make a net for each length of a sequence'
        )
    return Pass({name: found[name] for name in phi} | returned, phi, state)


def _is_output(value: Any, size: int) -> bool:
    floating = hasattr(value, 'dtype') and jax.numpy.issubdtype(value.dtype, jax.numpy.floating)
    return floating and value.shape[:1] == (size,)


def cut_vjp(
    net: Net, variables: Variables, batch: Batch, **kwargs: Any
) -> tuple[Pass, Callable[[Mapping[str, Array]], PyTree]]:
    """The cut pass and its pull: {region: cotangent of h} -> Eq. 5 updates in the tree of variables['params']."""
    rest = {name: value for name, value in variables.items() if name != 'params'}
    phi: dict[str, Phi] = {}

    def run(params: PyTree) -> tuple[dict[str, Array], Variables]:
        seen = forward(net, {'params': params, **rest}, batch, **kwargs)
        phi.update(seen.phi)
        return seen.h, seen.variables

    h, pull, state = jax.vjp(run, variables['params'], has_aux=True)

    def pull_errors(errors: Mapping[str, Array]) -> PyTree:
        (update,) = pull({name: errors[name].astype(h[name].dtype) for name in h})
        return update

    return Pass({name: h[name] for name in in_order(h, phi)}, phi, state), pull_errors


def in_order(h: Mapping[str, Any], phi: Mapping[str, Any]) -> tuple[str, ...]:
    """The regions of h in forward order, the outputs last; JAX has sorted them."""
    return (*phi, *(name for name in h if name not in phi))


def activations(net: Net) -> dict[str, Phi]:
    """Hidden region -> its activation function, in forward order; nothing is computed."""
    phi: dict[str, Phi] = {}

    def run(variables: Variables, batch: Batch, key: Array) -> None:
        phi.update(forward(net, variables, batch, rngs=key).phi)

    with_axes(jax.eval_shape, run, net.variable_shapes(), net.example, jax.random.key(0))
    return phi


def batch_size(batch: GivenBatch) -> int:
    """How many examples a batch has."""
    return next(iter(batch.values())).shape[0]
