"""What rec-LRA starts with: error synapses drawn for a wiring, after checking that wiring and model fit each other."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlra_jax.edges import Edge, Wiring
from rlra_jax.loss import widen
from rlra_jax.model.axes import with_axes
from rlra_jax.model.capture import forward
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.check_phi import check_phi
from rlra_jax.model.net import Net
from rlra_jax.paths import flatten
from rlra_jax.synapses.path import shared
from rlra_jax.types import Array, Batch, PyTree, Region, Variables
from rlra_jax.unused_gpu import warn_of_unused_gpu
from rlra_jax.wiring.levels import check_wiring


def check_start(net: Net, wiring: Wiring, std: float, allow: Collection[str] | None) -> dict[str, Any]:
    """Checks a model that a wiring is to train.

    Args:
      net: what `regions` returned.
      wiring: its error pathways.
      std: standard deviation of straight synapses. At 0 they send nothing, until a rule has filled them that can.
      allow: parameters that several regions are meant to train; see `check_cut`.

    Returns:
      {hidden region: the type of its activity, of a pre-activation of at least float32}.

    Raises:
      ValueError: the wiring names an unknown region, misses one or is out of order; std is 0 with a rule that leaves
        synapses there; a rule is to learn complex parameters, or of complex regions, from noise; a phi mixes units, see
        `check_phi`; or `check_cut` fails.

    Warns:
      UserWarning: regions are float16, in which small errors vanish.
    """
    warn_of_unused_gpu()
    check_wiring(wiring, net.regions)
    stuck = [edge for edge in wiring.edges if not edge.kind.follows and not edge.rule.from_nothing]
    if std == 0 and stuck:
        raise ValueError(
            f'the rule {stuck[0].rule} of edge {stuck[0].name} leaves a synapse at 0 where it starts there; a standard '
            'deviation of 0 goes with the rules Mirror and KolenPollack'
        )
    _check_real(net, wiring)
    if half := [region.name for region in net.regions if region.dtype == jnp.float16]:
        warnings.warn(
            f'float16 holds nothing below 6e-8: errors of regions {half}, which are divided by the number of examples, '
            'may vanish in it. bfloat16 reaches as far down as float32',
            stacklevel=3,
        )
    check_cut(net, allow=allow)

    def run(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        seen = forward(net, variables, batch, rngs=key)
        for name, phi in seen.phi.items():
            check_phi(name, phi, seen.h[name])
        return {name: phi(widen(seen.h[name])) for name, phi in seen.phi.items()}

    z = with_axes(jax.eval_shape, run, net.variable_shapes(), dict(net.example), jax.random.key(0))
    return {name: value.dtype for name, value in z.items()}


def _check_real(net: Net, wiring: Wiring) -> None:
    spectral = {region.name for region in net.regions if jnp.issubdtype(region.dtype, jnp.complexfloating)}
    for edge in wiring.edges:
        if edge.rule.noisy and not spectral.isdisjoint((edge.source, edge.target)):
            raise ValueError(
                f'the rule {edge.rule} of edge {edge.name} learns from real noise how real pre-activations answer; '
                f'those of {sorted(spectral)} are complex. Hand the Site real numbers, or take the rule KolenPollack'
            )
    params = flatten(net.variable_shapes()['params'])
    noisy = {edge.source: edge for edge in wiring.edges if edge.kind.follows and edge.rule.noisy}
    for region in net.regions:
        complex_ = [name for name in region.weights if jnp.issubdtype(params[name].dtype, jnp.complexfloating)]
        if region.name in noisy and complex_:
            edge = noisy[region.name]
            raise ValueError(
                f'the rule {edge.rule} of edge {edge.name} learns real parameters from noise; {complex_} are complex. '
                'Make each of two real ones, or take the rule KolenPollack'
            )


def warn_of_rounding(types: Mapping[str, Any]) -> None:
    """Warns if a phi rounds its activity, for errors are differences of these; types: what `check_start` returns."""
    short = {name: t for name, t in types.items() if jnp.issubdtype(t, jnp.floating) and jnp.finfo(t).bits < 32}
    if short:
        warnings.warn(
            f'the phi of {sorted(short)} puts out {sorted({t.name for t in short.values()})}: small errors, which are '
            'differences of activities, are rounded away. Cast after the Site, as in '
            'Site(jnp.tanh)(h).astype(jnp.bfloat16)',
            stacklevel=4,
        )


def draw_synapses(
    key: Array, wiring: Wiring, regions: Sequence[Region], variables: Variables, std: float
) -> tuple[PyTree, dict[str, Array]]:
    """(the error-pathway pytree, what the learner remembers).

    Straight synapses are drawn from N(0, std^2); those along paths like the parameters that they stand for, see
    `path.draw_like`, or equal to them if their rule says so; the same wherever several regions share a parameter. For
    kernels of zeros, as readout skips have at first, they start at 0 if their rule learns from there.

    Args:
      key: for the draw.
      wiring: the error pathways.
      regions: those of the model.
      variables: the model's, {'params': ..., ...}.
      std: standard deviation of straight synapses.

    Raises:
      ValueError: a kind of synapse does not fit the regions that it joins.
    """
    by_name, params = {region.name: region for region in regions}, flatten(variables['params'])
    keys = dict(zip(wiring.edges, jax.random.split(key, len(wiring.edges)), strict=True))

    def draw(edge: Edge) -> PyTree:
        if edge.kind.follows and edge.rule.equal:
            return {name: widen(params[name]) for name in by_name[edge.source].weights}
        try:
            source, target = by_name[edge.source], by_name[edge.target]
            return edge.kind.draw(keys[edge], source, target, params, std, from_nothing=edge.rule.from_nothing)
        except ValueError as error:
            raise ValueError(f'edge {edge.name}: {error}') from error

    drawn = tuple({name: draw(edges[0]) for name, edges in level.items()} for level in wiring.synapses)
    # Copies, for an array that two weights hold could not be donated.
    synapses = jax.tree.map(jnp.copy, shared(wiring, drawn, lambda _, values: values[0]))
    return synapses, {'step': jnp.zeros((), jnp.int32)}
