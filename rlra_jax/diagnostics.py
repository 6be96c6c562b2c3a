"""What a learner does to each region of a model, beside what backprop would: for logs, and to find what is wrong."""

import types
import warnings
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

from rlra_jax.edges import Carries, Wiring
from rlra_jax.loss import softmax_cross_entropy, widen
from rlra_jax.model.capture import OUTPUT, forward
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.gradient import loss_gradient
from rlra_jax.model.net import Net, require_net
from rlra_jax.paths import flatten
from rlra_jax.types import Array, Batch, Learner, Loss, Phi, PyTree, State, Variables, Weights, variables_of
from rlra_jax.validate import require

_REACH = 0.1  # how far h is moved to see whether phi follows
_FLAT = 0.01  # the slope below which a unit counts as saturated


def diagnose(
    net: Net,
    learner: Learner,
    weights: Weights,
    state: State,
    batch: Batch,
    key: Array,
    *,
    loss: Loss | None = None,
    allow: Collection[str] = (),
) -> dict[str, Array]:
    """Scalars by name; pure, so it jits and vmaps.

    Args:
      net: what `regions` returned.
      learner: any of `LEARNERS`, made for it.
      weights: as the learner's init returns them.
      state: the same.
      batch: what the call and the loss read.
      key: for the update, and for dropout.
      loss: of backprop's gradient. If None, the learner's own.
      allow: parameters that several regions are meant to train; see `check_cut`.

    Returns:
      'angle/REGION': between the region's update and backprop's gradient, in degrees; NaN if either is zero.
      'norm_ratio/REGION': the update's norm over the gradient's. Regions without parameters have neither.
      'saturated/REGION': share of activities, 0 to 1, where phi's slope is below 0.01.
      'dead/REGION': share of units that are saturated for the whole batch.
      And what `learner.probe` tells: 'alignment/SYNAPSE', 'displacement/REGION'.

    Raises:
      ValueError: the model is not cut (see `check_cut`), net or learner is of another type, or the others do not fit.

    Warns:
      UserWarning: the model has no Site. All of it then counts as the region 'output', and no activity is looked at.
    """
    require_net(net)
    require(isinstance(learner, Learner), 'learner', 'what a factory in LEARNERS returned', learner)
    ours = learner.update(weights, state, batch, key)[0]['params']  # which checks what it is given
    variables = variables_of(weights, state)
    seen = forward(net, variables, batch, rngs=key)
    owner = _owners(net, variables, bool(seen.phi), allow)
    exact, _, _ = loss_gradient(net, loss or learner.loss or softmax_cross_entropy, variables, batch, key)
    found: dict[str, Array] = {}
    trained = {region for regions in owner.values() for region in regions}
    for region in filter(trained.__contains__, seen.h if seen.phi else (OUTPUT,)):
        a, b = (_of_region(tree, owner, region) for tree in (ours, exact))
        cosine = _cosine(a, b)
        found[f'angle/{region}'] = jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))
        found[f'norm_ratio/{region}'] = jnp.linalg.norm(a) / jnp.linalg.norm(b)
    for region, phi in seen.phi.items():
        flat = _saturated(phi, seen.h[region])
        found[f'saturated/{region}'] = flat.mean()
        found[f'dead/{region}'] = flat.all(axis=0).mean()
    return found | (learner.probe(weights, state, batch, key) if learner.probe else {})


def edge_alignment(
    net: Net,
    wiring: Wiring,
    variables: Variables,
    batch: Batch,
    errors: Mapping[str, Array],
    d: Mapping[str, Array],
    *,
    own: Mapping[str, Array] = types.MappingProxyType({}),
    key: Array,
) -> dict[str, Array]:
    """'alignment/EDGE': cosine of the displacement that an edge carries with J^T e_j, what the forward path would.

    J is the Jacobian of h_j in z_i, along every path of the uncut model.

    Args:
      net: the model and its call.
      wiring: the error pathways.
      variables: the model's, {'params': ..., ...}.
      batch: what the call reads.
      errors: region -> error neurons `[B, ...]`, for every source of an edge.
      d: edge name -> the displacement `[B, ...]` that it carries.
      own: region -> its own error `[B, ...]`, for every source of an edge that carries one.
      key: for dropout.
    """

    def heads(shift: Mapping[str, Array]) -> dict[str, Array]:
        def leave(name: str, z: Array, shift: Array) -> Array:
            return z + shift.astype(z.dtype)

        return forward(net, variables, batch, rngs=key, leave=leave, given=shift).h

    h = forward(net, variables, batch, rngs=key).h
    still = {name: jnp.zeros_like(value) for name, value in h.items()}
    _, pull = jax.vjp(heads, still)
    found: dict[str, Array] = {}
    for source, carries in dict.fromkeys((edge.source, edge.carries is Carries.OWN) for edge in wiring.edges):
        sent = (own if carries else errors)[source]
        (paths,) = pull({**still, source: sent.astype(h[source].dtype)})
        for edge in wiring.edges:
            if (edge.source, edge.carries is Carries.OWN) == (source, carries):
                found[f'alignment/{edge.name}'] = _cosine(d[edge.name], paths[edge.target])
    return found


def displacements(moved: Mapping[str, tuple[Array, Array]]) -> dict[str, Array]:
    """'displacement/REGION': ||z - y|| / ||z|| over the batch, of {region: (activity z, target y)}."""
    return {f'displacement/{name}': jnp.linalg.norm(z - y) / jnp.linalg.norm(z) for name, (z, y) in moved.items()}


def kernel_alignment(B: Mapping[str, Array], W: Mapping[str, Array]) -> dict[str, Array]:
    """'alignment/KERNEL': cosine of backward weights with the forward weights of the same path."""
    return {f'alignment/{path}': _cosine(B[path], W[path]) for path in B}


def _owners(net: Net, variables: Variables, marked: bool, allow: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """Parameter path -> the regions that it belongs to."""
    if marked:
        return check_cut(net, allow=allow)
    warnings.warn(
        "the model has no Site: angle and norm_ratio are told of the model as a whole, as of the region 'output', and "
        'saturated and dead of none; mark its activations with Site(phi)',
        stacklevel=3,
    )
    return dict.fromkeys(flatten(variables['params']), (OUTPUT,))


def _of_region(tree: PyTree, owner: Mapping[str, tuple[str, ...]], region: str) -> Array:
    flat = flatten(tree)
    return jnp.concatenate([_flat(leaf).astype(jnp.float32) for path, leaf in flat.items() if region in owner[path]])


def _flat(leaf: Array) -> Array:
    """One number after the other; of complex ones the real parts, then the imaginary ones."""
    return jnp.concatenate([leaf.real.ravel(), leaf.imag.ravel()]) if jnp.iscomplexobj(leaf) else leaf.ravel()


def _cosine(a: Array, b: Array) -> Array:
    a, b = (_flat(widen(v)) for v in (a, b))
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def _saturated(phi: Phi, h: Array) -> Array:
    wide = widen(h)
    reach = _REACH * (-1.0) ** jnp.arange(h.shape[-1])  # a softmax does not answer to what moves all units alike
    return jnp.abs(phi(wide + reach) - phi(wide - reach)) < _FLAT * 2 * _REACH
