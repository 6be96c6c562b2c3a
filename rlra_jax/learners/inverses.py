"""Target propagation: every region's target is an inverse of the target above it. What its two learners share.

A decoder g_i(z) = phi_i(T(E, z) + c) from each hidden region to the one below it learns to undo one layer at noisy
activity: ||g_i(z_{i+1}(z_i + noise)) - (z_i + noise)||^2 / 2, averaged over the batch
(Lee, Zhang, Fischer and Bengio 2015).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.diagnostics import displacements
from rlra_jax.edges import Edge, Kind
from rlra_jax.loss import loss_and_error, widen
from rlra_jax.model.capture import OUTPUT, Pass, cut_vjp, forward
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.checked import make_learner
from rlra_jax.model.gradient import check_slopes, local_gradient
from rlra_jax.model.net import Net
from rlra_jax.rules import Fixed
from rlra_jax.synapses import ConvTranspose, Dense, Token
from rlra_jax.synapses.straight import Straight
from rlra_jax.types import (
    Array,
    Aux,
    Batch,
    Learner,
    Loss,
    Phi,
    PyTree,
    Region,
    State,
    Variables,
    Weights,
    variables_of,
)
from rlra_jax.validate import require_number


class Aims(NamedTuple):
    """Where a batch's regions are, and where they should be."""

    seen: Pass  # h in float32 or wider
    pull: Callable[[Mapping[str, Array]], PyTree]
    above: Callable[[Mapping[str, Array]], dict[str, Array]]  # activity of every region -> every h that reads it
    z: dict[str, Array]  # hidden region -> activity [B, ...]
    y: dict[str, Array]  # hidden region -> target [B, ...]
    e: Array  # [B, ...] error neurons of the output
    loss: Array  # [] mean over the batch


def inverse_learner(
    net: Net, loss: Loss, *, difference: bool, step: float, noise: float, synapse_std: float
) -> Learner:
    """A learner by target propagation.

    The last hidden region's target is a step down the loss's gradient there, through the readout alone; the readout
    learns by its own gradient. Targets y_i then travel down, and region i descends ||z_i - y_i||^2 / 2.

    Args:
      net: what `regions` returned, of a model whose Sites are a chain.
      loss: (outputs, batch) -> `[B]`.
      difference: y_i = z_i + g_i(y_{i+1}) - g_i(z_{i+1}) instead of g_i(y_{i+1}).
      step: of the last hidden region's target, above 0.
      noise: standard deviation, 0 or more, added to the activity that decoders learn to restore.
      synapse_std: standard deviation of the initial decoders; above 0, where those of relu units would stay.

    Returns:
      A learner whose synapses are {edge: {'E': synapse, 'c': bias [*target shape]}}.

    Raises:
      ValueError: an option out of range, an activation without a derivative, or regions that form no chain.
    """
    require_number('step', step, 0, above=True)
    require_number('noise', noise, 0)
    require_number('synapse_std', synapse_std, 0, above=True)
    check_slopes(net)
    hidden = [region.name for region in net.regions[:-1]]
    _check_chain(net.regions)
    pairs = itertools.pairwise(net.regions[-2::-1])
    edges = [Edge(above.name, below.name, _kind(above, below), Fixed()) for above, below in pairs]
    by_name = {region.name: region for region in net}

    def draw(key: Array, variables: Variables):
        del variables
        keys = jax.random.split(key, len(edges) + 1)
        decoders = {
            e.name: {
                'E': e.kind.draw(k, by_name[e.source], target := by_name[e.target], {}, synapse_std),
                'c': jnp.zeros(target.shape[1:], jnp.promote_types(target.dtype, jnp.float32)),
            }
            for e, k in zip(edges, keys[1:], strict=True)
        }
        return decoders, {}

    def aim(weights: Weights, state: State, batch: Batch, key: Array) -> Aims:
        variables = variables_of(weights, state)
        seen, pull = cut_vjp(net, variables, batch, rngs=key)
        h = {name: widen(h) for name, h in seen.h.items()}
        z = {name: seen.phi[name](h[name]) for name in hidden}

        def above(states: Mapping[str, Array]) -> dict[str, Array]:
            def leave(name: str, own: Array) -> Array:
                return states[name].astype(own.dtype)

            at = forward(net, variables, batch, rngs=key, leave=leave)
            return {name: value.astype(h[name].dtype) for name, value in at.h.items()}

        last, (mean, e) = hidden[-1], loss_and_error(loss, h[OUTPUT], batch)
        _, pull_readout = jax.vjp(lambda top: above({**z, last: top})[OUTPUT], z[last])
        y = {last: z[last] - step * pull_readout(e)[0]}
        for edge in edges:
            phi, decoder = seen.phi[edge.target], weights['synapses'][edge.name]
            y[edge.target] = decode(edge, decoder, phi, y[edge.source])
            if difference:
                y[edge.target] += z[edge.target] - decode(edge, decoder, phi, z[edge.source])
        return Aims(seen._replace(h=h), pull, above, z, y, e, mean)

    def update(weights: Weights, state: State, batch: Batch, key: Array):
        _, key_noise = jax.random.split(key)
        aims = aim(weights, state, batch, key)
        errors = {OUTPUT: aims.e}
        for name in hidden:
            _, pull_phi = jax.vjp(aims.seen.phi[name], aims.seen.h[name])
            (errors[name],) = pull_phi((aims.z[name] - aims.y[name]).astype(aims.z[name].dtype))
        params = local_gradient(aims.pull, errors)
        keys = jax.random.split(key_noise, len(hidden))
        noisy = {
            name: aims.z[name] + noise * jax.random.normal(own, aims.z[name].shape, aims.z[name].dtype)
            for name, own in zip(hidden, keys, strict=True)
        }
        above = aims.above(noisy)
        restore = jax.grad(lambda decoders: _restoration_loss(edges, decoders, aims.seen.phi, above, noisy))
        grads = {'params': params, 'synapses': restore(weights['synapses'])}
        aux = Aux(aims.loss, aims.seen.h[OUTPUT], jnp.zeros_like(aims.loss))
        return grads, State(aims.seen.variables, state.memory), aux

    def probe(weights: Weights, state: State, batch: Batch, key: Array) -> dict[str, Array]:
        aims = aim(weights, state, batch, key)
        return displacements({name: (aims.z[name], aims.y[name]) for name in hidden})

    return make_learner(net, loss, draw, update, check=lambda: check_cut(net, allow=None), probe=probe)


def decode(edge: Edge, decoder: PyTree, phi: Phi, z: Array) -> Array:
    """g(z) = phi(T(E, z) + c): the activity `[B, ...target]` that an activity `[B, ...source]` above it came from."""
    link = Straight(edge, z.shape, (len(z), *decoder['c'].shape))
    return phi(link.send(decoder['E'], z)[edge.name] + decoder['c'][None])


def _kind(above: Region, below: Region) -> Kind:
    """What a decoder is, by shapes: a transposed convolution between maps, unless a dense one is no larger."""
    source, target = above.shape, below.shape
    if (
        not source[1:-1]
        or len(source) != len(target)
        or any(n > m for n, m in zip(source[1:-1], target[1:-1], strict=True))
    ):
        return Dense()
    kind = Token() if len(source) == 3 and source[1] == target[1] else ConvTranspose()
    return kind if kind.size(above, below) <= Dense().size(above, below) else Dense()


def _restoration_loss(
    edges: Sequence[Edge], decoders: PyTree, phi: Mapping[str, Phi], h: Mapping[str, Array], noisy: Mapping[str, Array]
) -> Array:
    """How far every decoder is from undoing its layer at the noisy activity; mean over the batch, sum over edges."""
    total = jnp.zeros(())
    for edge in edges:
        above = phi[edge.source](h[edge.source])
        restored = decode(edge, decoders[edge.name], phi[edge.target], above)
        total += ((restored - noisy[edge.target]) ** 2).sum() / (2 * len(above))
    return total


def _check_chain(regions: Sequence[Region]) -> None:
    outputs = [region.name for region in regions if region.output]
    if len(outputs) > 1:
        raise ValueError(f'target propagation inverts a chain of regions up to one output; here are {outputs}')
    if len(regions) == 1:
        raise ValueError('target propagation needs a hidden region; mark the activations of this model with Site(phi)')
    for region, below in zip(regions, [(), *((region.name,) for region in regions)], strict=False):
        if region.inputs != below:
            raise ValueError(
                'target propagation inverts a chain of regions, each hearing only the one below it, but '
                f'{region.name!r} hears {list(region.inputs or ())}'
            )
