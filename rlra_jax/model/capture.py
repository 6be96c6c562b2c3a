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
from rlra_jax.model.loops import Visit, mark, marking, marks, visited
from rlra_jax.model.net import Net
from rlra_jax.paths import join, join_call, split, split_call
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
    leave: Callable[..., Array] = lambda name, z: lax.stop_gradient(z),
    given: Mapping[str, PyTree] | None = None,
) -> Pass:
    """Applies the model and captures its regions.

    Args:
      net: the model and its call.
      variables: {'params': ..., ...}, what linen's `model.init` or `rlra_jax.nnx.variables` returned.
      batch: what the call reads, each array `[B, ...]`.
      rngs: a key for dropout and every other random stream of the model.
      leave: (region, z) -> what leaves the Site: by default z, cut; noise is added here, or a state clamped. In a loop
        it is asked for one iteration, so what it knows of a region it must be given.
      given: region -> a tree of arrays `[B, ...]` like h, which leave then takes as a third argument, None for others.

    Raises:
      ValueError: a Site has the name of an output, gets an h without the batch axis in front, changes its shape or
        returns what is not floating, or sits where its h cannot be seen; the call returns neither a floating array
        `[B, ...]` nor several by name; or it makes other regions than those of the net.
    """

    def visit(name: str, phi: Phi, h: Array, own: Any) -> Array:
        z = activity(name, phi, h)
        return leave(name, z) if given is None else leave(name, z, own)

    return visited_pass(net, variables, batch, rngs, visit, given or {})


def activity(name: str, phi: Phi, h: Array) -> Array:
    """The activity z of a region, or of an iteration of it."""
    z = phi(h)
    if z.shape != h.shape:
        raise ValueError(f'phi of Site {name!r} must keep the shape of h, {h.shape}; it returned {z.shape}')
    if not jax.numpy.issubdtype(z.dtype, jax.numpy.floating):
        raise ValueError(f'phi of Site {name!r} must return a floating activity; it returned {z.dtype}')
    return z


def visited_pass(
    net: Net, variables: Variables, batch: Batch, rngs: Array | None, visit: Visit, given: Mapping[str, PyTree]
) -> Pass:
    """`forward` with a function that says what leaves a Site; arguments: as there and of `loops.visited`."""
    check_variables(variables)
    size = batch_size(batch)

    def sized(name: str, phi: Phi, h: Array, own: Any) -> Array:
        if not hasattr(h, 'shape') or h.shape[:1] != (size,):
            shape = jax.tree.map(jax.numpy.shape, h)
            raise ValueError(f'the h of Site {name!r} must have the {size} examples along its first axis; got {shape}')
        return visit(name, phi, h, own)

    look = _look_inside if net.marks else _look
    outputs, h, phi, state = look(net, variables, batch, rngs, sized, given)
    _check_outputs(net, outputs, list(phi), size)
    return Pass(h | by_region(outputs), phi, state)


Seen = tuple[Outputs, dict[str, Array], dict[str, Phi], Variables]  # outputs, {region: h}, {region: phi}, collections


def _look(
    net: Net, variables: Variables, batch: Batch, rngs: Array | None, visit: Visit, given: Mapping[str, PyTree]
) -> Seen:
    """Runs the model; its Sites record h."""
    phi: dict[str, Phi] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    calls: dict[str, list[str]] = {}  # Site -> the regions that its calls make

    def on_site(site: str, site_phi: Phi, h: Array) -> Array:
        made = calls.setdefault(site, [])
        name = join_call(site, len(made)) if made or site in net.repeated else site
        made.append(name)
        z = visit(name, site_phi, h, given.get(name))
        phi[name], shapes[name] = site_phi, h.shape
        return z

    outputs, seen, state = frontend(net.model).capture(
        net.model, net.call, variables, batch, rngs, on_site, record=True
    )
    came = {site: [h.shape for h in own] for site, own in seen.items()}
    hidden = sorted(
        site for site in {*calls, *seen} if came.get(site) != [shapes[name] for name in calls.get(site, ())]
    )
    if hidden:
        raise ValueError(f'Sites {hidden} sit in a lifted transform that hides them; scan, jit and remat are fine')
    found = {name: h for site, names in calls.items() for name, h in zip(names, seen[site], strict=True)}
    return outputs, {name: found[name] for name in phi}, phi, state


def _look_inside(
    net: Net, variables: Variables, batch: Batch, rngs: Array | None, visit: Visit, given: Mapping[str, PyTree]
) -> Seen:
    """Traces the model with marks, then runs the trace."""
    args = (variables, batch, rngs)
    closed, like = marked(net, *args)
    names = [own.region for own in marks(closed.jaxpr)]
    found, h, phi = visited(closed, jax.tree.leaves(args), names, visit, given)
    outputs, state = jax.tree.unflatten(jax.tree.structure(like), found)
    return outputs, h, phi, state


def marked(net: Net, variables: Variables, batch: Batch, rngs: Array | None) -> tuple[Any, Any]:
    """(the trace with marks, what it returns as jax.ShapeDtypeStructs: outputs, and collections after the pass)."""

    def run(variables: Variables, batch: Batch, rngs: Array | None) -> tuple[Outputs, Variables]:
        with marking():
            capture = frontend(net.model).capture
            outputs, _, state = capture(net.model, net.call, variables, batch, rngs, mark, record=False)
        return outputs, state

    return jax.make_jaxpr(run, return_shape=True)(variables, batch, rngs)


def _check_outputs(net: Net, outputs: Outputs, hidden: list[str], size: int) -> None:
    returned = by_region(outputs)
    if not returned or not all(_is_output(value, size) for value in returned.values()):
        came = jax.tree.map(lambda leaf: f'{leaf.dtype} {leaf.shape}' if hasattr(leaf, 'shape') else leaf, outputs)
        raise ValueError(
            f'the model must return a floating array [B, ...], here [{size}, ...], or several by name; got {came}'
        )
    if unnamed := [name for name in outputs if not isinstance(name, str)] if isinstance(outputs, Mapping) else []:
        raise ValueError(f'the names of several outputs must be strings; got {unnamed}')
    for name in returned.keys() & {split_call(name)[0] for name in hidden}:
        raise ValueError(f'the region {name!r} is what the model returns; give the Site of that name another one')
    known = [region.name for region in net.regions]
    count = len(hidden)
    if known and (known[:count] != hidden or {*known[count:]} != {*returned}):
        other = sorted({*hidden, *returned} ^ {*known}) or 'the same in another order'
        raise ValueError(
            f'the regions of a net are those of its example, which a batch of other shapes must have too; they differ '
            f'in {other}. Make a net for each length of a sequence'
        )


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
