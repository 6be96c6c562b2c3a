"""Equilibrium propagation (Scellier and Bengio 2017), E-Prop in the paper's Table 1.

In the prototypical form of Ernoult et al. 2019, with a readout of its own loss and the symmetric nudging of Laborieux
et al. 2021. The states s_i of the hidden regions settle where s_i = phi_i(dF/ds_i), for

  F(theta, s, b) = sum_i <s_i, h_i(s)> - b C(h_L(s), batch),

C being the loss and b the strength of the nudging. Activity flows up by h_i and down by its transpose.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.loss import of_each, softmax_cross_entropy, widen
from rlra_jax.model.call import to_answer
from rlra_jax.model.capture import Pass, activations, batch_size, by_name, forward
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.checked import make_learner
from rlra_jax.model.gradient import check_slopes
from rlra_jax.model.net import Net
from rlra_jax.types import (
    Array,
    Aux,
    Batch,
    Learner,
    Loss,
    Outputs,
    Phi,
    PyTree,
    State,
    Variables,
    Weights,
    variables_of,
)
from rlra_jax.validate import require, require_count, require_flag, require_number

States = dict[str, Array]  # hidden region -> s [B, ...]


class Inputs(NamedTuple):
    """What stays as it is while states settle."""

    net: Net
    variables: Variables
    batch: Batch
    key: Array | None


def equilibrium_prop(
    net: Net,
    *,
    nudge: float = 0.5,
    free_steps: int = 12,
    nudged_steps: int | None = None,
    symmetric: bool = True,
    damping: float = 0.5,
    loss: Loss = softmax_cross_entropy,
) -> Learner:
    """Two equilibria, free and nudged towards the label; their difference is the update.

    As the nudging tends to 0, and if states settle, the update tends to the gradient of the loss at the free
    equilibrium. Its outputs, not those of the model's own forward pass, are the learner's answer: `Learner.predict`, in
    inference unless `regions` was given a call of your own, which it then uses.

    Args:
      net: what `regions` returned. The model's activations are Sites with monotone phi, and its pre-activations are
        linear in the activities that they read.
      nudge: b, above 0.
      free_steps: steps of the free phase, from the activities of a forward pass; at least 1.
      nudged_steps: steps of each nudged phase, from the free states; at least as many as there are hidden regions, for
        the label to reach the lowest. None: as many, but 4 at least.
      symmetric: whether to nudge by b and by -b, or by b alone, against the free states.
      damping: share of the old state kept in each step, 0 to 0.999.
      loss: (outputs, batch) -> `[B]`.

    Raises:
      ValueError: an option out of range, an activation without a derivative, or a model that is not cut.
    """
    require_number('nudge', nudge, 0, above=True)
    require_count('free_steps', free_steps)
    require_number('damping', damping, 0, 0.999)
    require_flag('symmetric', symmetric)
    check_slopes(net)
    check_cut(net, allow=None)
    hidden, kept = tuple(activations(net)), float(damping)
    steps = max(4, len(hidden)) if nudged_steps is None else nudged_steps
    require_count('nudged_steps', steps)
    require(steps >= len(hidden), 'nudged_steps', f'at least {len(hidden)}, the number of hidden regions', steps)

    def objective(params: PyTree, s: States, b: float, at: Inputs) -> tuple[Array, Pass]:
        """F, summed over the batch, and the pass that gave it."""

        def leave(name: str, own: Array) -> Array:
            return s[name].astype(own.dtype)

        seen = forward(at.net, {**at.variables, 'params': params}, at.batch, rngs=at.key, leave=leave)
        h = {name: widen(value) for name, value in seen.h.items()}
        total = sum(((s[name] * h[name]).sum() for name in hidden), start=jnp.zeros(()))
        if b:
            total -= b * of_each(loss, by_name(h, net.outputs), at.batch).sum()
        return total, seen._replace(h=h)

    def settle(s: States, phi: Mapping[str, Phi], b: float, count: int, at: Inputs) -> States:
        def relax(_, s: States) -> States:
            drive = jax.grad(lambda s: objective(at.variables['params'], s, b, at)[0])(s)
            return {name: kept * s[name] + (1 - kept) * phi[name](drive[name]) for name in hidden}

        return jax.lax.fori_loop(0, count, relax, s)

    def settle_freely(at: Inputs) -> tuple[States, Mapping[str, Phi]]:
        """The free equilibrium, and the activation functions, which may know of the batch."""
        seen = forward(at.net, at.variables, at.batch, rngs=at.key)
        states = {name: seen.phi[name](widen(seen.h[name])) for name in hidden}
        return settle(states, seen.phi, 0.0, free_steps, at), seen.phi

    def update(weights: Weights, state: State, batch: Batch, key: Array):
        at = Inputs(net, variables_of(weights, state), batch, key)
        free, phi = settle_freely(at)
        low = -nudge if symmetric else 0.0
        up = settle(free, phi, nudge, steps, at)
        down = settle(free, phi, low, steps, at) if symmetric else free
        gradient = jax.grad(objective, has_aux=True)
        (at_up, _), (at_down, _) = (gradient(weights['params'], s, b, at) for s, b in ((up, nudge), (down, low)))
        scale = (nudge - low) * batch_size(batch)
        grads = jax.tree.map(lambda u, d: (d - u) / scale, at_up, at_down)
        _, seen = objective(weights['params'], free, 0.0, at)
        outputs = by_name(seen.h, net.outputs)
        mean = loss(outputs, batch).mean()
        aux = Aux(mean, outputs, jnp.zeros_like(mean))
        return {'params': grads, 'synapses': ()}, State(seen.variables, state.memory), aux

    def predict(variables: Variables, batch: Batch) -> Outputs:
        at = Inputs(dataclasses.replace(net, call=to_answer(net.call)), variables, batch, None)
        return by_name(objective(variables['params'], settle_freely(at)[0], 0.0, at)[1].h, net.outputs)

    return make_learner(net, loss, lambda key, variables: ((), {}), update, predict=predict)
