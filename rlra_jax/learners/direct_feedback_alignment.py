"""Direct feedback alignment (Nokland, NeurIPS 2016)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlra_jax.capture import OUTPUT, cut_vjp, forward
from rlra_jax.diagnostics import edge_alignment
from rlra_jax.feedback import feedback_like, init_feedback
from rlra_jax.gradient import check_slopes, local_gradient
from rlra_jax.inputs import checked_learner
from rlra_jax.regions import sites
from rlra_jax.synapses import transmit
from rlra_jax.targets import output_error
from rlra_jax.types import Array, Batch, Feedback, Learner, LocalGrads, Model, Variables
from rlra_jax.validate import require_number
from rlra_jax.wiring import kind_straight, wire_direct


def direct_feedback_alignment(
    model: Model, x: Array, *, synapse_std: float = 0.05, train_kwargs: Mapping[str, Any] | None = None
) -> Learner:
    """Every region gets the output's error over a fixed random synapse: the cotangent of h_i is phi'(h_i) (e_L E_i).

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]` and whose activations are Sites.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      synapse_std: standard deviation of the synapses; above 0, as they stay as drawn.
      train_kwargs: further keyword arguments of the model's call.

    Raises:
      ValueError: synapse_std is not above 0, an activation without a derivative, or a model that is not cut (see
        `check_cut`).
    """
    require_number('synapse_std', synapse_std, 0, above=True)
    check_slopes(model, x, train_kwargs)
    wiring = wire_direct(sites(model, x, train_kwargs=train_kwargs), kind=kind_straight, rule='fixed')

    def init(key: Array, variables: Variables, batch: Batch) -> Feedback:
        x = batch['image']
        return init_feedback(key, model, wiring, variables, x, std=synapse_std, train_kwargs=train_kwargs, allow=None)

    def update(variables: Variables, feedback: Feedback, batch: Batch, key: Array):
        seen, pull = cut_vjp(model, variables, batch['image'], rngs=key, train_kwargs=train_kwargs)
        still = {name: jnp.zeros_like(h) for name, h in seen.h.items()}  # what the model does not let learn
        errors = still | {OUTPUT: output_error(seen.h[OUTPUT], batch['label'])}
        synapses: dict[str, Array] = dict(*feedback.synapses)  # of one level, or of none
        for edge in wiring.edges:
            h = seen.h[edge.target]
            _, pull_phi = jax.vjp(seen.phi[edge.target], h)
            d = transmit(edge.kind, synapses[edge.name], errors[OUTPUT], h.shape)
            (errors[edge.target],) = pull_phi(d.astype(h.dtype))
        grads, aux = local_gradient(seen, pull, errors, batch)
        return LocalGrads(grads, jax.tree.map(jnp.zeros_like, feedback.synapses)), feedback, aux

    def probe(variables: Variables, feedback: Feedback, batch: Batch, key: Array) -> dict[str, Array]:
        x = batch['image']
        seen = forward(model, variables, x, rngs=key, train_kwargs=train_kwargs)
        errors = {OUTPUT: output_error(seen.h[OUTPUT], batch['label'])}
        synapses: dict[str, Array] = dict(*feedback.synapses)
        d = {
            edge.name: transmit(edge.kind, synapses[edge.name], errors[OUTPUT], seen.h[edge.target].shape)
            for edge in wiring.edges
        }
        return edge_alignment(model, wiring, variables, x, errors, d, key=key, train_kwargs=train_kwargs)

    draw = feedback_like(model, wiring, train_kwargs)
    return checked_learner(Learner(init, update, probe=probe), model, train_kwargs, draw)
