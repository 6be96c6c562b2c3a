"""`update_fn`: one step of rec-LRA, where `jax.value_and_grad` stood."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax import path
from rlra_jax.capture import Pass, cut_vjp, forward
from rlra_jax.feedback import feedback_like
from rlra_jax.inputs import checked
from rlra_jax.mirror import mirror_grads
from rlra_jax.options import Options, make_options
from rlra_jax.path import Path
from rlra_jax.paths import flatten
from rlra_jax.programs import cut_model, split
from rlra_jax.recursion import Signals, connect, propagate
from rlra_jax.rules import RULES, Link, LinkSignals
from rlra_jax.targets import total_discrepancy, widen
from rlra_jax.types import Array, Aux, Batch, Edge, Feedback, LocalGrads, Model, Phi, PyTree, Variables, Wiring
from rlra_jax.validate import per_region, score

UpdateFn = Callable[[Variables, Feedback, Batch, Array], tuple[LocalGrads, Feedback, Aux]]


class Context(NamedTuple):
    """What is known once the cut pass has run."""

    wiring: Wiring
    options: Options
    variables: Variables
    synapses: PyTree
    x: Array  # [B, ...] input, noise included
    label: Array  # [B] class indices
    h: dict[str, Array]  # region -> pre-activation [B, ...], widened
    phi: Mapping[str, Phi]
    paths: Mapping[str, Path]  # source -> the way back over its edges of that kind
    key: Array  # of the model's random streams


# (context, pull of the cut pass) -> (gradients before `rescale`, mean total discrepancy)
Learn = Callable[[Context, Callable[[Mapping[str, Array]], PyTree]], tuple[LocalGrads, Array]]


def update_fn(
    model: Model, wiring: Wiring, *, train_kwargs: Mapping[str, Any] | None = None, **hyper_parameters: Any
) -> UpdateFn:
    """Makes the rec-LRA update of a model.

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]` and whose activations are Sites.
      wiring: its error pathways.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      **hyper_parameters: those of `Options`: beta, gamma, kappa, alpha, normalise, surrogate, radius, input_noise,
        mirror_std, mirror_every, mirror_antithetic.

    Returns:
      update(variables, feedback, batch, key) -> (LocalGrads, Feedback, Aux), pure: it jits, vmaps, scans and shards.
      batch is {'image': floating [B, ...], 'label': integer [B]}. A label that is no class is an error outside jit;
      under jit, where nobody knows its value in time, the loss is NaN.

    Raises:
      TypeError: an unknown option.
      ValueError: an option out of range; when update is called or traced, variables, feedback, batch, key, wiring or
        region name that do not fit.
    """
    return make_update(model, wiring, make_options(**hyper_parameters), train_kwargs, learn_here)


def make_update(
    model: Model, wiring: Wiring, options: Options, train_kwargs: Mapping[str, Any] | None, learn: Learn
) -> UpdateFn:
    """`update_fn` with another way to get from the cut pass to the gradients."""
    mirrored = any(edge.rule == 'mirror' for edge in wiring.edges)

    def update(variables: Variables, feedback: Feedback, batch: Batch, key: Array):
        # The model's own streams take `key` itself, as every learner's do: all see the same dropout masks.
        key_input, _, key_mirror = jax.random.split(key, 3)
        noisy = {**batch, 'image': add_noise(batch['image'], options.input_noise, key_input)}
        seen, pull, context = _cut(model, wiring, options, variables, feedback, noisy, key, train_kwargs)
        x, h = context.x, context.h
        grads, discrepancy = learn(context, pull)
        if mirrored:

            def run(leave):
                return forward(model, variables, x, rngs=key, train_kwargs=train_kwargs, leave=leave).h

            def estimate():
                return mirror_grads(
                    wiring,
                    connect(wiring, h, context.paths),
                    feedback.synapses,
                    run,
                    h,
                    seen.phi,
                    key_mirror,
                    std=options.mirror_std,
                    antithetic=options.mirror_antithetic,
                )

            step = feedback.memory['step']
            grads = grads._replace(synapses=_merge(grads.synapses, estimate, step, options.mirror_every))
        grads = grads._replace(
            synapses=path.shared(wiring, grads.synapses, lambda values: jnp.stack(values).mean(axis=0))
        )
        memory = {**feedback.memory, 'step': feedback.memory['step'] + 1}
        loss, error = score(h[wiring.output], batch['label'])
        aux = Aux(loss, error, h[wiring.output], seen.variables, discrepancy)
        return rescale(grads, options), Feedback(feedback.synapses, memory), aux

    return checked(update, model, feedback_like(model, wiring, train_kwargs), train_kwargs)


def spread(
    model: Model,
    wiring: Wiring,
    variables: Variables,
    feedback: Feedback,
    batch: Batch,
    key: Array,
    options: Options,
    *,
    train_kwargs: Mapping[str, Any] | None,
) -> Signals:
    """The cut pass and the recursion over it."""
    _, _, context = _cut(model, wiring, options, variables, feedback, batch, key, train_kwargs)
    return _recur(context)


def _cut(
    model: Model,
    wiring: Wiring,
    options: Options,
    variables: Variables,
    feedback: Feedback,
    batch: Batch,
    key: Array,
    train_kwargs: Mapping[str, Any] | None,
) -> tuple[Pass, Callable[[Mapping[str, Array]], PyTree], Context]:
    x = batch['image']
    seen, pull = cut_vjp(model, variables, x, rngs=key, train_kwargs=train_kwargs)
    h = {name: widen(h) for name, h in seen.h.items()}
    paths = _find_paths(model, wiring, variables, x, key, train_kwargs, seen)
    context = Context(wiring, options, variables, feedback.synapses, x, batch['label'], h, seen.phi, paths, key)
    return seen, pull, context


def _find_paths(
    model: Model,
    wiring: Wiring,
    variables: Variables,
    x: Array,
    key: Array,
    train_kwargs: Mapping[str, Any] | None,
    seen: Pass,
) -> dict[str, Path]:
    if all(edge.kind != 'path' for edge in wiring.edges):
        return {}
    params, stats = split(variables)
    z = {name: phi(seen.h[name]) for name, phi in seen.phi.items()}
    programs = cut_model(model, variables, x, key, train_kwargs=train_kwargs).programs()
    return path.find_paths(wiring, programs, {'params': params, 'stats': stats, 'z': z, 'x': {'': x}, 'key': {'': key}})


def _recur(context: Context) -> Signals:
    alphas = per_region('alpha', context.options.alpha, context.phi)
    return align(
        context.wiring,
        context.synapses,
        context.h,
        context.phi,
        context.label,
        alphas,
        context.options,
        paths=context.paths,
    )


def learn_here(context: Context, pull: Callable[[Mapping[str, Array]], PyTree]) -> tuple[LocalGrads, Array]:
    """(gradients before `rescale`, mean total discrepancy): the recursion, then Eqs. 5 and 6."""
    kappas = per_region('kappa', context.options.kappa, context.h)
    signals = _recur(context)
    share = {name: (kappas[name] / len(context.label)) * e for name, e in signals.e.items()}
    params = pull(share)
    links = connect(context.wiring, context.h, context.paths)
    grads = LocalGrads(params, synapse_grads(links, context.synapses, signals, flatten(params)))
    return grads, total_discrepancy(signals.z, signals.y, kappas).mean()


def add_noise(x: Array, std: float, key: Array) -> Array:
    """Adds Gaussian noise, in the dtype of x."""
    return x + std * jax.random.normal(key, x.shape, x.dtype) if std else x


def align(
    wiring: Wiring,
    synapses: PyTree,
    h: Mapping[str, Array],
    phi: Mapping[str, Phi],
    label: Array,
    alphas: Mapping[str, float],
    options: Options,
    known: Mapping[str, Array] | None = None,
    paths: Mapping[str, Path] | None = None,
) -> Signals:
    """`propagate` for class indices `[B]` as labels and the options beta, normalise and surrogate."""
    onehot = jax.nn.one_hot(label, h[wiring.output].shape[1], dtype=h[wiring.output].dtype)
    return propagate(
        wiring,
        synapses,
        h,
        phi,
        onehot,
        beta=options.beta,
        alpha=alphas,
        normalise=options.normalise,
        surrogate=options.surrogate,
        known=known,
        paths=paths,
    )


def rescale(grads: LocalGrads, options: Options) -> LocalGrads:
    """Applies gamma to the synapses' updates, then the projection to the ball."""
    grads = grads._replace(synapses=jax.tree.map(lambda g: options.gamma * g, grads.synapses))
    radius = options.radius
    return grads if radius is None else jax.tree.map(lambda u: _project(u, radius), grads)


def synapse_grads(
    links: tuple[dict[str, Link], ...], synapses: PyTree, signals: Signals, own: Mapping[str, Array]
) -> PyTree:
    """Eq. 6 and its alternatives: a tree map over the error-pathway pytree.

    Args:
      links: as `recursion.connect` returns them.
      synapses: the error-pathway pytree.
      signals: what the recursion computed.
      own: {path: update} of parameters, at least of the sources of edges of the kind 'path'.
    """

    def learn(link: Link, E: PyTree) -> PyTree:
        d = {edge.name: signals.d[edge.name] for edge in link.edges}
        z = {edge.name: signals.z[edge.target] for edge in link.edges}
        y = {edge.name: functools.partial(_aim, signals, edge) for edge in link.edges}
        return RULES[link.edges[0].rule](link, LinkSignals(E, signals.e[link.edges[0].source], d, z, y, own))

    return jax.tree.map(learn, links, synapses)


def _aim(signals: Signals, edge: Edge, d: Array) -> Array:
    """The target's target y `[B, ...]`, were d the edge's displacement."""
    return signals.reach[edge.target](signals.total[edge.target] - signals.d[edge.name] + d)


def _merge(grads: PyTree, estimate: Callable[[], PyTree], step: Array, every: int) -> PyTree:
    """Puts the mirrored edges' gradients in, at every so many steps."""

    def mirrored():
        return tuple({**level, **news} for level, news in zip(grads, estimate(), strict=True))

    return mirrored() if every == 1 else jax.lax.cond(step % every == 0, mirrored, lambda: grads)


def _project(update: Array, radius: float) -> Array:
    """Onto the ball of that radius; divides by the largest entry first, since squares overflow."""
    wide = widen(update)
    largest = jnp.maximum(jnp.abs(wide).max(), jnp.finfo(wide.dtype).tiny)
    unit = wide / largest
    norm = jnp.maximum(jnp.linalg.norm(unit.reshape(-1)), 1.0)  # at least its largest entry, 1, unless all is 0
    return jnp.where(largest > radius / norm, unit * (radius / norm), wide).astype(update.dtype)
