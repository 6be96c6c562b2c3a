"""What rec-LRA starts with: error synapses drawn for a wiring, and what an update expects of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlra_jax import path
from rlra_jax.axes import with_axes
from rlra_jax.capture import forward
from rlra_jax.check_cut import check_cut
from rlra_jax.check_phi import check_phi
from rlra_jax.inputs import Expect, check_model_variables
from rlra_jax.paths import flatten
from rlra_jax.regions import sites
from rlra_jax.synapses import draw
from rlra_jax.types import Array, Batch, Edge, Feedback, Model, PyTree, Region, Variables, Wiring
from rlra_jax.unused_gpu import warn_of_unused_gpu
from rlra_jax.validate import check_key, require_number
from rlra_jax.wiring import check_wiring

_FROM_NOTHING = ('mirror', 'kp')  # the rules that need no signal over a synapse to learn it


def init_feedback(
    key: Array,
    model: Model,
    wiring: Wiring,
    variables: Variables,
    x: Array,
    *,
    std: float = 0.05,
    train_kwargs: Mapping[str, Any] | None = None,
    allow: Collection[str] | None = (),
) -> Feedback:
    """Draws the error synapses, after checking that wiring and model fit each other.

    Straight ones from N(0, std^2); those of the kind 'path' like the parameters that they stand for, see
    `path.draw_like`, the same wherever several regions share a parameter.

    Args:
      key: for the draw.
      model: a linen or nnx module whose activations are Sites.
      wiring: its error pathways.
      variables: the model's, {'params': ..., ...}.
      x: an example batch `[B, ...]`; only its shape and dtype matter.
      std: standard deviation of straight synapses. At 0 they start at nothing and send nothing, until the rule `mirror`
        or `kp` has filled them; the other rules never would.
      train_kwargs: further keyword arguments of the model's call, such as {'train': True}.
      allow: parameters that several regions are meant to train; see `check_cut`.

    Raises:
      ValueError: std is below 0, or 0 with a rule that leaves synapses there; the key is none; the variables are not
        those of the model for such an x; the wiring names an unknown region, misses one or is out of order; a kind of
        synapse does not fit the regions that it joins; a phi mixes units, see `check_phi`; or `check_cut` fails.
    """
    warn_of_unused_gpu()
    require_number('std', std, 0)
    check_key(key)
    check_model_variables(model, variables, x, train_kwargs)
    regions = sites(model, x, train_kwargs=train_kwargs)
    check_wiring(wiring, regions)
    _check_start(wiring, std)
    check_cut(model, x, variables=variables, train_kwargs=train_kwargs, allow=allow)
    _check_phi(model, x, variables, train_kwargs)
    return first_feedback(key, wiring, regions, variables, std)


def _check_start(wiring: Wiring, std: float) -> None:
    stuck = [edge for edge in wiring.edges if edge.kind != 'path' and edge.rule not in _FROM_NOTHING]
    if std == 0 and stuck:
        raise ValueError(
            f'the rule {stuck[0].rule!r} of edge {stuck[0].name} leaves a synapse at 0 where it starts there; '
            f'a standard deviation of 0 goes with the rules {" and ".join(_FROM_NOTHING)}'
        )


def _check_phi(model: Model, x: Array, variables: Variables, train_kwargs: Mapping[str, Any] | None) -> None:
    def run(variables: Variables, x: Array, key: Array) -> None:
        seen = forward(model, variables, x, rngs=key, train_kwargs=train_kwargs)
        for name, phi in seen.phi.items():
            check_phi(name, phi, seen.h[name])

    with_axes(jax.eval_shape, run, variables, jax.ShapeDtypeStruct(x.shape, x.dtype), jax.random.key(0))


def first_feedback(key: Array, wiring: Wiring, regions: Sequence[Region], variables: Variables, std: float) -> Feedback:
    """`init_feedback` without the checks."""
    by_name, params = {region.name: region for region in regions}, flatten(variables['params'])
    keys = dict(zip(wiring.edges, jax.random.split(key, len(wiring.edges)), strict=True))

    def first(edge: Edge) -> PyTree:
        source, target = by_name[edge.source], by_name[edge.target]
        if edge.kind == 'path':
            return path.draw(keys[edge], source, params)
        return draw(edge, keys[edge], source.shape, target.shape, std)

    synapses = tuple({name: first(edges[0]) for name, edges in level.items()} for level in wiring.synapses)
    synapses = path.shared(wiring, synapses, lambda values: values[0])
    return Feedback(synapses, {'step': jnp.zeros((), jnp.int32)})


def feedback_like(model: Model, wiring: Wiring, train_kwargs: Mapping[str, Any] | None) -> Expect:
    """(feedback, key, variables, batch) -> shapes of what `init_feedback` draws, checked as far as an update needs it.

    Which parameters a path's synapse stands for only a trace could tell; those that came are taken if the model has
    them.
    """

    def expect(feedback: Feedback, key: Array, variables: Variables, batch: Batch) -> Feedback:
        params = flatten(variables['params'])
        came = [level for level in feedback.synapses if isinstance(level, Mapping)]
        along = {name: E for level in came for name, E in level.items() if isinstance(E, Mapping)}
        weights = {
            edge.source: tuple(path for path in along.get(edge.synapse, {}) if path in params)
            for edge in wiring.edges
            if edge.kind == 'path'
        }

        def draw(key: Array, variables: Variables, x: Array) -> Feedback:
            h = forward(model, variables, x, rngs=key, train_kwargs=train_kwargs).h
            hearing = {wiring.output, *(edge.target for edge in wiring.edges)}  # no error comes to others
            regions = [
                Region(name, value.shape, value.dtype, weights=weights.get(name, ()))
                for name, value in h.items()
                if name in hearing
            ]
            if wiring.edges:
                check_wiring(wiring, regions)
            return first_feedback(key, wiring, regions, variables, 1.0)

        return jax.eval_shape(draw, key, variables, batch['image'])

    return expect
