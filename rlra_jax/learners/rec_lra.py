"""Recursive local representation alignment (Ororbia, Mali, Kifer and Giles, AAAI 2023), as a Learner."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rlra_jax.diagnostics import displacements, edge_alignment, kernel_alignment
from rlra_jax.edges import Wiring
from rlra_jax.model.inputs import checked, checked_init
from rlra_jax.model.regions import sites
from rlra_jax.paths import flatten
from rlra_jax.recursion.feedback import feedback_like, init_feedback
from rlra_jax.recursion.options import make_options
from rlra_jax.recursion.update import learn_here, make_update, spread
from rlra_jax.types import Array, Batch, Feedback, Learner, Model, Region, Variables
from rlra_jax.validate import require, require_number, require_paths
from rlra_jax.wiring.wirings import wire_blocks


def rec_lra(
    model: Model,
    x: Array,
    *,
    wiring: Wiring | Callable[[Sequence[Region]], Wiring] = wire_blocks,
    train_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Learner:
    """rec-LRA on a model whose activations are Sites.

    Args:
      model: a linen or nnx module that maps images to logits `[B, classes]`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct: the regions are traced with it.
      wiring: the error pathways, or a function of the regions that makes them, such as `wire_reverse`.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      **options: of `make_learner` and `update_fn`: synapse_std, allow, beta, gamma, kappa, alpha, ...

    Raises:
      ValueError: what makes no wiring, or an option out of range; by `Learner.init`, as `init_feedback`.
      TypeError: an unknown option.
    """
    expected = 'a Wiring, or a function of the regions that makes one, such as wire_blocks'
    require(isinstance(wiring, Wiring) or callable(wiring), 'wiring', expected, wiring)
    if not isinstance(wiring, Wiring):
        wiring = wiring(sites(model, x, train_kwargs=train_kwargs))
    return make_learner(model, wiring, train_kwargs=train_kwargs, **options)


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
        along = [E[name] for synapses, E in levels for name, edges in synapses.items() if edges[0].kind.follows]
        moved |= {name: value for E in along for name, value in kernel_alignment(E, W).items()}
        return moved | edge_alignment(model, wiring, variables, x, e, signals.d, key=key, train_kwargs=train_kwargs)

    like = feedback_like(model, wiring, train_kwargs)
    told = checked(probe, model, like, train_kwargs)
    return Learner(checked_init(init, model, train_kwargs), update, probe=told)
