"""Recursive local representation alignment (Ororbia, Mali, Kifer and Giles, AAAI 2023), as a Learner."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rlra_jax.diagnostics import displacements, edge_alignment, kernel_alignment
from rlra_jax.model.inputs import checked, checked_init
from rlra_jax.model.regions import sites
from rlra_jax.paths import flatten
from rlra_jax.recursion.feedback import feedback_like, init_feedback
from rlra_jax.recursion.options import make_options
from rlra_jax.recursion.update import learn_here, make_update, spread
from rlra_jax.types import Array, Batch, Feedback, Learner, Model, Region, Variables, Wiring
from rlra_jax.validate import lookup, require, require_number, require_paths
from rlra_jax.wiring.wirings import Kind, wire_blocks, wire_chain, wire_direct, wire_modules, wire_reverse

WIRINGS: dict[str, Callable[..., Wiring]] = {
    'blocks': wire_blocks,
    'chain': wire_chain,
    'direct': wire_direct,
    'modules': wire_modules,
    'reverse': wire_reverse,
}


def rec_lra(
    model: Model,
    x: Array,
    *,
    wiring: str | Wiring = 'blocks',
    gap: int = 2,
    modules_per_block: int = 1,
    kind: Kind = 'by_shape',
    rule: str = 'mirror',
    train_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Learner:
    """rec-LRA on a model whose activations are Sites.

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct: the regions are traced with it.
      wiring: 'blocks', 'chain', 'direct', 'modules', 'reverse', or a Wiring, which then settles all that follows up to
        rule.
      gap: of the wiring 'blocks'; others take none.
      modules_per_block: of the wiring 'modules'; others take none.
      kind: synapse kind of every edge: a name, 'by_shape', 'pooled', or a function of source and target.
      rule: learning rule of every edge: 'hebbian', 'kp', 'dx', 'mirror' or 'fixed'.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      **options: of `make_learner` and `update_fn`: synapse_std, allow, beta, gamma, kappa, alpha, mirror_std, ...

    Raises:
      ValueError: an unknown kind, rule or wiring, or an option out of range or of another wiring; by `Learner.init`, as
        `init_feedback`.
      TypeError: an unknown option.
    """
    pathways = error_pathways(
        model,
        x,
        wiring=wiring,
        gap=gap,
        modules_per_block=modules_per_block,
        kind=kind,
        rule=rule,
        train_kwargs=train_kwargs,
    )
    return make_learner(model, pathways, train_kwargs=train_kwargs, **options)


def error_pathways(
    model: Model,
    x: Array,
    *,
    wiring: str | Wiring = 'blocks',
    gap: int = 2,
    modules_per_block: int = 1,
    kind: Kind = 'by_shape',
    rule: str = 'mirror',
    train_kwargs: Mapping[str, Any] | None = None,
) -> Wiring:
    """The Wiring that options of `rec_lra` stand for; raises as `rec_lra` does."""
    given = {'gap': gap, 'modules_per_block': modules_per_block, 'kind': kind, 'rule': rule}
    make = _given_wiring(wiring) if isinstance(wiring, Wiring) else lookup(WIRINGS, wiring, 'wiring')
    taken = {name: value for name, value in given.items() if name in inspect.signature(make).parameters}
    for name in given.keys() - taken.keys():
        default = inspect.signature(error_pathways).parameters[name].default
        called = 'that was given' if isinstance(wiring, Wiring) else repr(wiring)
        expected = f'{default!r}, its default, as the wiring {called} takes none'
        require(given[name] == default, name, expected, given[name])
    return make(sites(model, x, train_kwargs=train_kwargs), **taken)


def _given_wiring(wiring: Wiring) -> Callable[[Sequence[Region]], Wiring]:
    """What makes it, like those in WIRINGS; it takes no options."""
    return lambda regions: wiring


def make_learner(
    model: Model,
    wiring: Wiring,
    *,
    synapse_std: float = 0.05,
    allow: Collection[str] = (),
    train_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Learner:
    """`init_feedback` and `update_fn` of one wiring as a Learner.

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]` and whose activations are Sites.
      wiring: its error pathways.
      synapse_std: standard deviation of the initial synapses.
      allow: parameters that several regions are meant to train; see `check_cut`.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      **options: those of `options.Options`.

    Raises:
      ValueError: an option out of range; by `Learner.init`, as `init_feedback`.
      TypeError: an unknown option.
    """
    require_number('synapse_std', synapse_std, 0, above=True)
    require_paths('allow', allow)
    settings = make_options(**options)
    update = make_update(model, wiring, settings, train_kwargs, learn_here)

    def init(key: Array, variables: Variables, batch: Batch) -> Feedback:
        x = batch['image']
        return init_feedback(key, model, wiring, variables, x, std=synapse_std, train_kwargs=train_kwargs, allow=allow)

    def probe(variables: Variables, feedback: Feedback, batch: Batch, key: Array) -> dict[str, Array]:
        signals = spread(model, wiring, variables, feedback, batch, key, settings, train_kwargs=train_kwargs)
        hidden = dict.fromkeys(edge.target for edge in wiring.edges)
        moved = displacements(*({name: part[name] for name in hidden} for part in (signals.z, signals.y)))
        x, e, W = batch['image'], signals.e, flatten(variables['params'])
        levels = zip(wiring.synapses, feedback.synapses, strict=True)
        along = [E[name] for synapses, E in levels for name, edges in synapses.items() if edges[0].kind == 'path']
        moved |= {name: value for E in along for name, value in kernel_alignment(E, W).items()}
        return moved | edge_alignment(model, wiring, variables, x, e, signals.d, key=key, train_kwargs=train_kwargs)

    like = feedback_like(model, wiring, train_kwargs)
    told = checked(probe, model, like, train_kwargs)
    return Learner(checked_init(init, model, train_kwargs), update, probe=told)
