"""Direct feedback alignment (Nokland, NeurIPS 2016)."""

import dataclasses
import functools
import operator
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rlra_jax.diagnostics import edge_alignment
from rlra_jax.edges import Kind
from rlra_jax.loss import loss_and_error, softmax_cross_entropy, widen
from rlra_jax.model.capture import by_name, by_region, cut_vjp, forward
from rlra_jax.model.checked import make_learner
from rlra_jax.model.gradient import check_slopes, local_gradient
from rlra_jax.model.net import Net
from rlra_jax.recursion.start import check_start, draw_synapses
from rlra_jax.rules import Fixed
from rlra_jax.synapses.straight import Straight
from rlra_jax.types import Array, Aux, Batch, Learner, Loss, Region, State, Variables, Weights, variables_of
from rlra_jax.validate import require, require_number
from rlra_jax.wiring.choose import Choice, kind_straight
from rlra_jax.wiring.wirings import wire_direct


def kind_of_each(source: Region, target: Region) -> Kind:
    """As `kind_straight`, but each call of a Site has a synapse of its own: over a fixed one all hear the same."""
    return dataclasses.replace(kind_straight(source, target), share='none')


def direct_feedback_alignment(
    net: Net, *, kind: Choice = kind_of_each, synapse_std: float = 0.05, loss: Loss = softmax_cross_entropy
) -> Learner:
    """Every region gets the output's error over a fixed random synapse: the cotangent of h_i is phi'(h_i) (e_L E_i).

    Of several outputs, a region gets those that it feeds.

    Args:
      net: what `regions` returned.
      kind: of the synapses, a straight one such as `Token()`, or a function of output and region that chooses one. By
        default each call of a Site has a synapse of its own.
      synapse_std: standard deviation of the synapses; above 0, as they stay as drawn.
      loss: (outputs, batch) -> `[B]`.

    Raises:
      ValueError: a kind of another type, or `Path()`; synapse_std is not above 0, an activation without a derivative,
        or, by `init`, a model that is not cut (see `check_cut`).
    """
    require_number('synapse_std', synapse_std, 0, above=True)
    check_slopes(net, loops=True)
    wiring = wire_direct(net, kind=kind, rule=Fixed())
    along = [edge.name for edge in wiring.edges if edge.kind.follows]
    require(not along, 'kind', 'straight, as errors come from the output alone', f'Path() for {along}')

    def draw(key: Array, variables: Variables):
        return draw_synapses(key, wiring, net.regions, variables, synapse_std)

    def send(weights: Weights, e: Mapping[str, Array], h: Mapping[str, Array]) -> dict[str, Array]:
        """{edge name: displacement `[B, ...]`}."""
        E = {name: E for level in weights['synapses'] for name, E in level.items()}
        d: dict[str, Array] = {}
        for edge in wiring.edges:
            link = Straight(edge, e[edge.source].shape, h[edge.target].shape)
            d |= link.send(E[edge.name], e[edge.source])
        return d

    def update(weights: Weights, state: State, batch: Batch, key: Array):
        seen, pull = cut_vjp(net, variables_of(weights, state), batch, rngs=key)
        mean, error = loss_and_error(loss, by_name(seen.h, wiring.outputs), batch)
        errors = {name: jnp.zeros_like(h) for name, h in seen.h.items()} | by_region(error)
        d = send(weights, errors, seen.h)
        for name in dict.fromkeys(edge.target for edge in wiring.edges):
            h = seen.h[name]
            z, pull_phi = jax.vjp(seen.phi[name], h)
            total = functools.reduce(operator.add, (d[edge.name] for edge in wiring.edges if edge.target == name))
            (errors[name],) = pull_phi(total.astype(z.dtype))
        grads = {'params': local_gradient(pull, errors), 'synapses': jax.tree.map(jnp.zeros_like, weights['synapses'])}
        outputs = jax.tree.map(widen, by_name(seen.h, wiring.outputs))
        aux = Aux(mean, outputs, jnp.zeros_like(mean))
        return grads, State(seen.variables, {**state.memory, 'step': state.memory['step'] + 1}), aux

    def probe(weights: Weights, state: State, batch: Batch, key: Array) -> dict[str, Array]:
        variables = variables_of(weights, state)
        seen = forward(net, variables, batch, rngs=key)
        _, error = loss_and_error(loss, by_name(seen.h, wiring.outputs), batch)
        errors = by_region(error)
        return edge_alignment(net, wiring, variables, batch, errors, send(weights, errors, seen.h), key=key)

    return make_learner(net, loss, draw, update, check=lambda: check_start(net, wiring, synapse_std, None), probe=probe)
