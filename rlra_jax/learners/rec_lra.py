"""Recursive local representation alignment (Ororbia, Mali, Kifer and Giles, AAAI 2023), as a Learner."""

from collections.abc import Mapping
from typing import Any

from rlra_jax.regions import sites
from rlra_jax.types import Array, Learner, Model, Wiring
from rlra_jax.validate import lookup, require
from rlra_jax.wired import make_learner
from rlra_jax.wiring import Kind, wire_blocks, wire_chain, wire_direct, wire_modules, wire_reverse

WIRINGS = {
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
      gap: of the wiring 'blocks'.
      modules_per_block: of the wiring 'modules'.
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
    fits = modules_per_block == 1 or wiring == 'modules'
    require(fits, 'modules_per_block', "1 but for the wiring 'modules'", modules_per_block)
    if isinstance(wiring, Wiring):
        return wiring
    make = lookup(WIRINGS, wiring, 'wiring')
    sizes: dict[str, dict[str, Any]] = {
        'blocks': {'gap': gap},
        'modules': {'modules_per_block': modules_per_block},
    }
    return make(sites(model, x, train_kwargs=train_kwargs), kind=kind, rule=rule, **sizes.get(wiring, {}))
