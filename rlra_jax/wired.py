"""A wiring as a Learner: rec-LRA's update with its start and what can be told of it. Shared by its learners."""

from collections.abc import Collection, Mapping
from typing import Any

from rlra_jax.diagnostics import displacements, edge_alignment, kernel_alignment
from rlra_jax.feedback import feedback_like, init_feedback
from rlra_jax.inputs import checked, checked_init
from rlra_jax.options import make_options
from rlra_jax.paths import flatten
from rlra_jax.types import Array, Batch, Feedback, Learner, Model, Variables, Wiring
from rlra_jax.update import learn_here, make_update, spread
from rlra_jax.validate import require_number, require_paths


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
      synapse_std: standard deviation of the initial synapses, straight ones; 0 for nothing, as in `init_feedback`.
      allow: parameters that several regions are meant to train; see `check_cut`.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      **options: those of `options.Options`.

    Raises:
      ValueError: an option out of range; by `Learner.init`, as `init_feedback`.
      TypeError: an unknown option.
    """
    require_number('synapse_std', synapse_std, 0)
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
