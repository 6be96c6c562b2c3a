"""What a learner does to each region of a model, beside what backprop would: for logs, and to find what is wrong."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlra_jax.edges import Wiring
from rlra_jax.loss import widen
from rlra_jax.model.capture import OUTPUT, forward
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.gradient import loss_gradient
from rlra_jax.paths import flatten
from rlra_jax.types import Array, Batch, Feedback, Learner, Model, Phi, PyTree, Variables

_REACH = 0.1  # how far h is moved to see whether phi follows
_FLAT = 0.01  # the slope below which a unit counts as saturated


def diagnose(
    model: Model,
    learner: Learner,
    variables: Variables,
    feedback: Feedback,
    batch: Batch,
    key: Array,
    *,
    train_kwargs: Mapping[str, Any] | None = None,
    allow: Collection[str] = (),
) -> dict[str, Array]:
    """Scalars by name; pure, so it jits and vmaps.

    Args:
      model: a linen or nnx module whose activations are Sites.
      learner: any of `LEARNERS`, made for the model.
      variables: the model's, {'params': ..., ...}.
      feedback: the learner's.
      batch: {'image': floating `[B, ...]`, 'label': integer `[B]`}.
      key: for the update, and for dropout.
      train_kwargs: further keyword arguments of the model's call.
      allow: parameters that several regions are meant to train; see `check_cut`.

    Returns:
      'angle/REGION': between the region's update and backprop's gradient, in degrees; NaN if either is zero.
      'norm_ratio/REGION': the update's norm over the gradient's. Regions without parameters have neither.
      'saturated/REGION': share of activities, 0 to 1, where phi's slope is below 0.01.
      'dead/REGION': share of units that are saturated for the whole batch.
      And what `learner.probe` tells: 'alignment/SYNAPSE', 'displacement/REGION'.

    Raises:
      ValueError: the model is not cut (see `check_cut`).

    Warns:
      UserWarning: the model has no Site. All of it then counts as the region 'output', and no activity is looked at.
    """
    seen = forward(model, variables, batch['image'], rngs=key, train_kwargs=train_kwargs)
    owner = _owners(model, variables, batch['image'], bool(seen.phi), train_kwargs, allow)
    ours = learner.update(variables, feedback, batch, key)[0].params
    exact, _ = loss_gradient(model, variables, batch, key, train_kwargs=train_kwargs)
    found: dict[str, Array] = {}
    trained = {region for regions in owner.values() for region in regions}
    for region in filter(trained.__contains__, seen.h):
        a, b = (_of_region(tree, owner, region) for tree in (ours, exact))
        cosine = _cosine(a, b)
        found[f'angle/{region}'] = jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))
        found[f'norm_ratio/{region}'] = jnp.linalg.norm(a) / jnp.linalg.norm(b)
    for region, phi in seen.phi.items():
        flat = _saturated(phi, seen.h[region])
        found[f'saturated/{region}'] = flat.mean()
        found[f'dead/{region}'] = flat.all(axis=0).mean()
    return found | (learner.probe(variables, feedback, batch, key) if learner.probe else {})


def edge_alignment(
    model: Model,
    wiring: Wiring,
    variables: Variables,
    x: Array,
    errors: Mapping[str, Array],
    d: Mapping[str, Array],
    *,
    key: Array,
    train_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    """'alignment/EDGE': cosine of the displacement that an edge carries with J^T e_j, what the forward path would.

    J is the Jacobian of h_j in z_i, along every path of the uncut model.

    Args:
      model: a linen or nnx module whose activations are Sites.
      wiring: the error pathways.
      variables: the model's, {'params': ..., ...}.
      x: inputs `[B, ...]`.
      errors: region -> error neurons `[B, ...]`, for every source of an edge.
      d: edge name -> the displacement `[B, ...]` that it carries.
      key: for dropout.
      train_kwargs: further keyword arguments of the model's call.
    """

    def heads(shift: Mapping[str, Array]) -> dict[str, Array]:
        def leave(name: str, z: Array) -> Array:
            return z + shift[name].astype(z.dtype)

        return forward(model, variables, x, rngs=key, train_kwargs=train_kwargs, leave=leave).h

    h = forward(model, variables, x, rngs=key, train_kwargs=train_kwargs).h
    still = {name: jnp.zeros_like(value) for name, value in h.items()}
    _, pull = jax.vjp(heads, still)
    found: dict[str, Array] = {}
    for source in dict.fromkeys(edge.source for edge in wiring.edges):
        (paths,) = pull({**still, source: errors[source].astype(h[source].dtype)})
        for edge in wiring.edges:
            if edge.source == source:
                found[f'alignment/{edge.name}'] = _cosine(d[edge.name], paths[edge.target])
    return found


def displacements(z: Mapping[str, Array], y: Mapping[str, Array]) -> dict[str, Array]:
    """'displacement/REGION': ||z - y|| / ||z|| over the batch, for every region of z."""
    return {f'displacement/{name}': jnp.linalg.norm(z[name] - y[name]) / jnp.linalg.norm(z[name]) for name in z}


def kernel_alignment(B: Mapping[str, Array], W: Mapping[str, Array]) -> dict[str, Array]:
    """'alignment/KERNEL': cosine of backward weights with the forward weights of the same path."""
    return {f'alignment/{path}': _cosine(B[path], W[path]) for path in B}


def _owners(
    model: Model,
    variables: Variables,
    x: Array,
    marked: bool,
    train_kwargs: Mapping[str, Any] | None,
    allow: Collection[str],
) -> Mapping[str, tuple[str, ...]]:
    """Parameter path -> the regions that it belongs to."""
    if marked:
        return check_cut(model, x, variables=variables, train_kwargs=train_kwargs, allow=allow)
    warnings.warn(
        "the model has no Site: angle and norm_ratio are told of the model as a whole, as of the region 'output', and "
        'saturated and dead of none; mark its activations with Site(phi)',
        stacklevel=3,
    )
    return dict.fromkeys(flatten(variables['params']), (OUTPUT,))


def _of_region(tree: PyTree, owner: Mapping[str, tuple[str, ...]], region: str) -> Array:
    flat = flatten(tree)
    return jnp.concatenate(
        [jnp.ravel(leaf).astype(jnp.float32) for path, leaf in flat.items() if region in owner[path]]
    )


def _cosine(a: Array, b: Array) -> Array:
    a, b = (widen(v).ravel() for v in (a, b))
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def _saturated(phi: Phi, h: Array) -> Array:
    wide = widen(h)
    return jnp.abs(phi(wide + _REACH) - phi(wide - _REACH)) < _FLAT * 2 * _REACH
