"""Direct feedback alignment (Nokland, NeurIPS 2016)."""

import jax
import jax.numpy as jnp

from rlra_jax.diagnostics import edge_alignment
from rlra_jax.edges import Edge
from rlra_jax.loss import loss_and_error, require_loss, softmax_cross_entropy, widen
from rlra_jax.model.capture import OUTPUT, cut_vjp, forward
from rlra_jax.model.checked import make_learner
from rlra_jax.model.gradient import check_slopes, local_gradient
from rlra_jax.model.net import Net
from rlra_jax.recursion.start import check_start, draw_synapses
from rlra_jax.rules import Fixed
from rlra_jax.synapses.straight import Straight
from rlra_jax.types import Array, Aux, Batch, Learner, Loss, State, Variables, Weights, variables_of
from rlra_jax.validate import require_number
from rlra_jax.wiring.choose import kind_straight
from rlra_jax.wiring.wirings import wire_direct


def direct_feedback_alignment(net: Net, *, synapse_std: float = 0.05, loss: Loss = softmax_cross_entropy) -> Learner:
    """Every region gets the output's error over a fixed random synapse: the cotangent of h_i is phi'(h_i) (e_L E_i).

    Args:
      net: what `regions` returned.
      synapse_std: standard deviation of the synapses; above 0, as they stay as drawn.
      loss: (outputs, batch) -> `[B]`.

    Raises:
      ValueError: synapse_std is not above 0, an activation without a derivative, or, by `init`, a model that is not cut
        (see `check_cut`).
    """
    require_number('synapse_std', synapse_std, 0, above=True)
    require_loss(loss)
    check_slopes(net)
    wiring = wire_direct(net, kind=kind_straight, rule=Fixed())

    def draw(key: Array, variables: Variables):
        return draw_synapses(key, wiring, net.regions, variables, synapse_std)

    def update(weights: Weights, state: State, batch: Batch, key: Array):
        seen, pull = cut_vjp(net, variables_of(weights, state), batch, rngs=key)
        mean, error = loss_and_error(loss, seen.h[OUTPUT], batch)
        still = {name: jnp.zeros_like(h) for name, h in seen.h.items()}  # what the model does not let learn
        errors = still | {OUTPUT: error}
        synapses: dict[str, Array] = dict(*weights['synapses'])  # of one level, or of none
        for edge in wiring.edges:
            h = seen.h[edge.target]
            _, pull_phi = jax.vjp(seen.phi[edge.target], h)
            d = _send(edge, synapses[edge.name], error, h)
            (errors[edge.target],) = pull_phi(d.astype(h.dtype))
        grads = {'params': local_gradient(pull, errors), 'synapses': jax.tree.map(jnp.zeros_like, weights['synapses'])}
        aux = Aux(mean, widen(seen.h[OUTPUT]), jnp.zeros(()))
        return grads, State(seen.variables, {**state.memory, 'step': state.memory['step'] + 1}), aux

    def probe(weights: Weights, state: State, batch: Batch, key: Array) -> dict[str, Array]:
        variables = variables_of(weights, state)
        seen = forward(net, variables, batch, rngs=key)
        _, error = loss_and_error(loss, seen.h[OUTPUT], batch)
        synapses: dict[str, Array] = dict(*weights['synapses'])
        d = {edge.name: _send(edge, synapses[edge.name], error, seen.h[edge.target]) for edge in wiring.edges}
        return edge_alignment(net, wiring, variables, batch, {OUTPUT: error}, d, key=key)

    return make_learner(net, draw, update, check=lambda: check_start(net, wiring, synapse_std, None), probe=probe)


def _send(edge: Edge, E: Array, e: Array, h: Array) -> Array:
    return Straight(edge, e.shape, h.shape).send(E, e)[edge.name]
