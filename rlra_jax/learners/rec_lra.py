"""Recursive local representation alignment (Ororbia, Mali, Kifer and Giles, AAAI 2023), as a Learner."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlra_jax.regions import sites
from rlra_jax.types import Array, Learner, Model, Region, Wiring
from rlra_jax.validate import lookup, require
from rlra_jax.wired import make_learner
from rlra_jax.wiring import Kind, wire_blocks, wire_chain, wire_direct, wire_modules, wire_reverse

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
    gap: int | None = None,
    modules_per_block: int | None = None,
    kind: Kind | None = None,
    rule: str | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Learner:
    """rec-LRA on a model whose activations are Sites.

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct: the regions are traced with it.
      wiring: 'blocks', 'chain', 'direct', 'modules', 'reverse', or a Wiring, which then settles all that follows up to
        rule.
      gap: of the wiring 'blocks', 2 if None; others take none.
      modules_per_block: of the wiring 'modules', 1 if None; others take none.
      kind: synapse kind of every edge: a name, 'by_shape' (if None), 'pooled', or a function of source and target.
      rule: learning rule of every edge: 'hebbian', 'kp', 'dx', 'mirror' (if None) or 'fixed'.
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
    gap: int | None = None,
    modules_per_block: int | None = None,
    kind: Kind | None = None,
    rule: str | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> Wiring:
    """The Wiring that options of `rec_lra` stand for; raises as `rec_lra` does."""
    options = {'gap': gap, 'modules_per_block': modules_per_block, 'kind': kind, 'rule': rule}
    given = {name: value for name, value in options.items() if value is not None}
    make = _given_wiring(wiring) if isinstance(wiring, Wiring) else lookup(WIRINGS, wiring, 'wiring')
    called = 'that was given' if isinstance(wiring, Wiring) else repr(wiring)
    for name, value in given.items():
        taken = name in inspect.signature(make).parameters
        require(taken, name, f'left out, as the wiring {called} takes none', value)
    return make(sites(model, x, train_kwargs=train_kwargs), **given)


def _given_wiring(wiring: Wiring) -> Callable[[Sequence[Region]], Wiring]:
    """What makes it, like those in WIRINGS; it takes no options."""
    return lambda regions: wiring
