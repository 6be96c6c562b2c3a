"""Equilibrium propagation (Scellier and Bengio 2017), E-Prop in the paper's Table 1.

In the prototypical form of Ernoult et al. 2019, with the cross-entropy readout and the symmetric nudging of Laborieux
et al. 2021. The states s_i of the hidden regions settle where s_i = phi_i(dF/ds_i), for

  F(theta, s, b) = sum_i <s_i, h_i(s)> - b C(h_L(s), label),

C being the cross-entropy and b the strength of the nudging. Activity flows up by h_i and down by its transpose.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlra_jax.loss import score, widen
from rlra_jax.model.capture import OUTPUT, Pass, activations, forward
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.gradient import check_slopes
from rlra_jax.model.inputs import checked_learner
from rlra_jax.types import Array, Aux, Batch, Feedback, Learner, LocalGrads, Model, PyTree, Variables
from rlra_jax.validate import require, require_count, require_flag, require_number

States = dict[str, Array]  # hidden region -> s [B, ...]


class Inputs(NamedTuple):
    """What stays as it is while states settle."""

    variables: Variables
    x: Array  # [B, ...]
    label: Array | None  # [B]
    key: Array | None
    train_kwargs: Mapping[str, Any] | None


def equilibrium_prop(
    model: Model,
    x: Array,
    *,
    nudge: float = 0.5,
    free_steps: int = 12,
    nudged_steps: int | None = None,
    symmetric: bool = True,
    damping: float = 0.5,
    train_kwargs: Mapping[str, Any] | None = None,
) -> Learner:
    """Two equilibria, free and nudged towards the label; their difference is the update.

    As the nudging tends to 0, and if states settle, the update tends to the gradient of the cross-entropy at the free
    equilibrium. Its logits, not those of the model's own forward pass, are the learner's answer: `Learner.predict`.

    Args:
      model: maps images to logits `[B, classes]`; linen or nnx. Its activations are Sites with monotone phi,
        and whose pre-activations are linear in the activities that they read.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      nudge: b, above 0.
      free_steps: steps of the free phase, from the activities of a forward pass; at least 1.
      nudged_steps: steps of each nudged phase, from the free states; at least as many as there are hidden regions, for
        the label to reach the lowest. None: as many, but 4 at least.
      symmetric: whether to nudge by b and by -b, or by b alone, against the free states.
      damping: share of the old state kept in each step, 0 to 0.999.
      train_kwargs: further keyword arguments of the model's call.

    Raises:
      ValueError: an option out of range, an activation without a derivative, or a model that is not cut.
    """
    require_number('nudge', nudge, 0, above=True)
    require_count('free_steps', free_steps)
    require_number('damping', damping, 0, 0.999)
    require_flag('symmetric', symmetric)
    check_slopes(model, x, train_kwargs)
    check_cut(model, x, train_kwargs=train_kwargs, allow=None)
    phi = activations(model, x, train_kwargs=train_kwargs)
    steps = max(4, len(phi)) if nudged_steps is None else nudged_steps
    require_count('nudged_steps', steps)
    require(steps >= len(phi), 'nudged_steps', f'at least {len(phi)}, the number of hidden regions', steps)

    def objective(params: PyTree, s: States, b: float, at: Inputs) -> tuple[Array, Pass]:
        """F, summed over the batch, and the pass that gave it."""
        seen = forward(
            model,
            {**at.variables, 'params': params},
            at.x,
            rngs=at.key,
            train_kwargs=at.train_kwargs,
            leave=lambda name, own: s[name].astype(own.dtype),
        )
        h = {name: widen(value) for name, value in seen.h.items()}
        total = sum(((s[name] * h[name]).sum() for name in phi), start=jnp.zeros(()))
        if at.label is not None:
            total -= (
                b
                * optax.softmax_cross_entropy(
                    h[OUTPUT], jax.nn.one_hot(at.label, h[OUTPUT].shape[1], dtype=h[OUTPUT].dtype)
                ).sum()
            )
        return total, seen._replace(h=h)

    def settle(s: States, b: float, count: int, at: Inputs) -> States:
        def relax(_, s: States) -> States:
            drive = jax.grad(lambda s: objective(at.variables['params'], s, b, at)[0])(s)
            return {name: damping * s[name] + (1 - damping) * phi[name](drive[name]) for name in phi}

        return jax.lax.fori_loop(0, count, relax, s)

    def settle_freely(at: Inputs) -> States:
        seen = forward(model, at.variables, at.x, rngs=at.key, train_kwargs=at.train_kwargs)
        return settle({name: phi[name](widen(seen.h[name])) for name in phi}, 0.0, free_steps, at)

    def init(key: Array, variables: Variables, batch: Batch) -> Feedback:
        del key, variables, batch
        return Feedback((), {})

    def update(variables: Variables, feedback: Feedback, batch: Batch, key: Array):
        at = Inputs(variables, batch['image'], batch['label'], key, train_kwargs)
        free = settle_freely(at)
        low = -nudge if symmetric else 0.0
        up = settle(free, nudge, steps, at)
        down = settle(free, low, steps, at) if symmetric else free
        gradient = jax.grad(objective, has_aux=True)
        (at_up, _), (at_down, _) = (gradient(variables['params'], s, b, at) for s, b in ((up, nudge), (down, low)))
        scale = (nudge - low) * len(batch['label'])
        grads = jax.tree.map(lambda u, d: (d - u) / scale, at_up, at_down)
        _, seen = objective(variables['params'], free, 0.0, at)
        loss, error = score(seen.h[OUTPUT], batch['label'])
        return LocalGrads(grads, ()), feedback, Aux(loss, error, seen.h[OUTPUT], seen.variables, jnp.zeros(()))

    def predict(variables: Variables, x: Array) -> Array:
        at = Inputs(variables, x, None, None, None)
        return objective(variables['params'], settle_freely(at), 0.0, at)[1].h[OUTPUT]

    return checked_learner(Learner(init, update, predict), model, train_kwargs)
