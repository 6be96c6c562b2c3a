"""One step of rec-LRA: the cut pass, the recursion, and the updates of W and E."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.compiler import computed_once
from rlra_jax.edges import Edge, Link, Wiring
from rlra_jax.loss import loss_and_error, widen
from rlra_jax.model.capture import Pass, batch_size, by_name, by_region, cut_vjp, forward
from rlra_jax.model.net import Net
from rlra_jax.model.programs import cut_model, split
from rlra_jax.paths import flatten
from rlra_jax.recursion.loop import Loop, find_loops
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.propagate import Signals, connect, propagate
from rlra_jax.recursion.region import learn
from rlra_jax.recursion.targets import total_discrepancy
from rlra_jax.rules.mirror import mirror_of
from rlra_jax.rules.noisy_passes import mirror_grads
from rlra_jax.synapses.path import Along, find_ways, shared
from rlra_jax.types import (
    Array,
    Aux,
    Batch,
    Loss,
    Phi,
    PyTree,
    State,
    Update,
    Variables,
    Weights,
    variables_of,
)
from rlra_jax.validate import per_region

Pull = Callable[[Mapping[str, Array]], PyTree]


class Context(NamedTuple):
    """What is known once the cut pass has run."""

    wiring: Wiring
    options: Options
    variables: Variables
    synapses: PyTree
    batch: Batch  # input noise included
    h: dict[str, Array]  # region -> pre-activation [B, ...], widened
    phi: Mapping[str, Phi]
    loss: Array  # [] mean over the batch
    e: dict[str, Array]  # output -> error neurons [B, ...]
    paths: Mapping[str, Along]  # source -> the way back over its edges that follow the forward path
    loops: tuple[Loop, ...]  # those along which errors travel
    key: Array  # of the model's random streams
    step: Array  # int32 [], how many updates there were


# (context, pull of the cut pass) -> (gradients before `rescale`, mean total discrepancy)
Learn = Callable[[Context, Pull], tuple[Weights, Array]]


def make_update(net: Net, wiring: Wiring, options: Options, loss: Loss, learn: Learn) -> Update:
    """The update of rec-LRA.

    Args:
      net: the model and its call.
      wiring: its error pathways.
      options: hyper-parameters.
      loss: (outputs, batch) -> `[B]`.
      learn: how to get from the cut pass to the gradients: `learn_here`, or spread over devices.
    """
    mirror = mirror_of(wiring)

    def update(weights: Weights, state: State, batch: Batch, key: Array):
        # The model's own streams take `key` itself, as every learner's do: all see the same dropout masks.
        key_input, _, key_mirror = jax.random.split(key, 3)
        batch = add_noise(batch, options.input_noise, key_input)
        seen, pull, context = look(net, wiring, options, loss, weights, state, batch, key)
        grads, discrepancy = learn(context, pull)
        step = state.memory['step']
        if mirror is not None:

            def run(leave: Callable[..., Array], given: Mapping[str, PyTree]) -> dict[str, Array]:
                return forward(net, context.variables, batch, rngs=key, leave=leave, given=given).h

            def estimate() -> PyTree:
                links = connect(wiring, context.h, context.paths)
                return mirror_grads(wiring, links, context.synapses, run, context.h, seen.phi, key_mirror)

            grads = {**grads, 'synapses': _merge(grads['synapses'], estimate, step, mirror.every)}
        grads = {**grads, 'synapses': shared(wiring, grads['synapses'], _together)}
        after = State(seen.variables, {**state.memory, 'step': step + 1})
        return rescale(grads, options), after, Aux(context.loss, by_name(context.h, wiring.outputs), discrepancy)

    return update


def look(
    net: Net,
    wiring: Wiring,
    options: Options,
    loss: Loss,
    weights: Weights,
    state: State,
    batch: Batch,
    key: Array,
) -> tuple[Pass, Pull, Context]:
    """The cut pass, its pull, and what is known then."""
    variables = variables_of(weights, state)
    seen, pull = cut_vjp(net, variables, batch, rngs=key)
    h = {name: widen(h) for name, h in seen.h.items()}
    mean, error = loss_and_error(loss, by_name(h, wiring.outputs), batch)
    z = {name: phi(seen.h[name]) for name, phi in seen.phi.items()}
    paths = _find_ways(net, wiring, variables, batch, key, z)
    loops = find_loops(net, wiring, variables, batch, key, z)
    context = Context(
        wiring,
        options,
        variables,
        weights['synapses'],
        batch,
        h,
        seen.phi,
        mean,
        by_region(error),
        paths,
        loops,
        key,
        state.memory['step'],
    )
    return seen, pull, context


def _find_ways(
    net: Net, wiring: Wiring, variables: Variables, batch: Batch, key: Array, z: Mapping[str, Array]
) -> dict[str, Along]:
    if not any(edge.kind.follows for edge in wiring.edges):
        return {}
    params, stats = split(variables)
    programs = cut_model(net, variables, batch, key).programs()
    return find_ways(wiring, programs, {'params': params, 'stats': stats, 'z': z, 'x': batch, 'key': {'': key}})


def recur(context: Context) -> Signals:
    """The recursion over a cut pass."""
    return propagate(
        context.wiring,
        context.synapses,
        context.h,
        context.phi,
        context.e,
        context.options,
        paths=context.paths,
        loops=context.loops,
    )


def learn_here(context: Context, pull: Pull) -> tuple[Weights, Array]:
    """(gradients before `rescale`, mean total discrepancy): the recursion, then Eqs. 5 and 6."""
    kappas = per_region('kappa', context.options.kappa, context.h)
    signals, size = recur(context), batch_size(context.batch)
    errors = {name: (kappas[name] / size) * e for name, e in signals.e.items()}
    maps = {name: e for name, e in errors.items() if e.ndim > 2}  # of layers of units, what reads an error is cheap
    params = pull(errors | computed_once(context.step, maps))
    links = connect(context.wiring, context.h, context.paths)
    synapses = synapse_grads(links, context.synapses, signals, flatten(params))
    missed = {name: signals.z[name] - signals.y[name] for name in context.phi} | context.e
    return {'params': params, 'synapses': synapses}, total_discrepancy(missed, kappas).mean()


def add_noise(batch: Batch, std: float, key: Array) -> Batch:
    """Adds Gaussian noise to the images of a batch, in their dtype.

    Raises:
      ValueError: std is above 0 and the batch has no images.
    """
    if not std:
        return batch
    if 'image' not in batch:
        raise ValueError(f"input_noise is added to batch['image']; the batch holds {sorted(batch)}")
    x = batch['image']
    return {**batch, 'image': x + std * jax.random.normal(key, x.shape, x.dtype)}


def rescale(grads: Weights, options: Options) -> Weights:
    """Applies gamma to the synapses' updates, then the projection to the ball."""
    grads = {**grads, 'synapses': jax.tree.map(lambda g: options.gamma * g, grads['synapses'])}
    radius = options.radius
    return grads if radius is None else jax.tree.map(lambda u: _project(u, radius), grads)


def synapse_grads(
    links: tuple[dict[str, Link], ...], synapses: PyTree, signals: Signals, params: Mapping[str, Array]
) -> PyTree:
    """Eq. 6 and its alternatives: a tree map over the error-pathway pytree.

    Args:
      links: as `propagate.connect` returns them.
      synapses: the error-pathway pytree.
      signals: what the recursion computed.
      params: {path: update} of parameters, at least of the sources of edges along paths.
    """

    def grad(link: Link, E: PyTree) -> PyTree:
        return learn(link, E, signals.e[link.edges[0].source], signals.d, signals.reactions, params)

    return jax.tree.map(grad, links, synapses)


def _merge(grads: PyTree, estimate: Callable[[], PyTree], step: Array, every: int) -> PyTree:
    """Puts the mirrored edges' gradients in, at every so many steps."""

    def mirrored() -> PyTree:
        return tuple({**level, **news} for level, news in zip(grads, estimate(), strict=True))

    return mirrored() if every == 1 else jax.lax.cond(step % every == 0, mirrored, lambda: grads)


def _together(edge: Edge, updates: Sequence[Array]) -> Array:
    """The update of an E that several edges share: of a path, and of estimates from noise, the mean; else the sum."""
    total = jnp.stack(updates).sum(axis=0)
    return total / len(updates) if edge.kind.follows or edge.rule.noisy else total


def _project(update: Array, radius: float) -> Array:
    """Onto the ball of that radius; divides by the largest entry first, since squares overflow."""
    wide = widen(update)
    largest = jnp.maximum(jnp.abs(wide).max(initial=0), jnp.finfo(wide.dtype).tiny)
    unit = wide / largest
    norm = jnp.maximum(jnp.linalg.norm(unit.reshape(-1)), 1.0)  # at least its largest entry, 1, unless all is 0
    return jnp.where(largest > radius / norm, unit * (radius / norm), wide).astype(update.dtype)
