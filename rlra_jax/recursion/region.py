"""What one region, and one synapse, does in the recursion: the same in every mode."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rlra_jax.edges import Link, LinkSignals
from rlra_jax.recursion import targets
from rlra_jax.recursion.options import Options
from rlra_jax.types import Array, Phi, PyTree


class Reaction(NamedTuple):
    """A hidden region's answer to what its edges carry to it; all arrays `[B, ...]`."""

    z: Array  # activity
    y: Array  # target, Eq. 3
    e: Array  # error neurons, Eq. 4
    total: Array  # the displacements' sum
    reach: Callable[[Array], Array]  # Eq. 3 as a function of that sum

    def aim(self, d: Array, other: Array) -> Array:
        """The target, had an edge that contributes d contributed another displacement."""
        return self.reach(self.total - d + other)


def react(phi: Phi, h: Array, d: Sequence[Array], alpha: float, options: Options) -> Reaction:
    """Eqs. 3 and 4.

    Args:
      phi: the region's activation function.
      h: its pre-activation `[B, ...]`, at least float32.
      d: the displacements `[B, ...]` that its edges carry, one or more.
      alpha: its error mixture.
      options: of which beta, normalise and surrogate count.
    """
    reach = functools.partial(targets.target, phi, h, options)
    total = functools.reduce(operator.add, d)
    z, y = phi(h), reach(total)
    return Reaction(z, y, targets.error_neurons(z, y, alpha, options), total, reach)


def learn(
    link: Link,
    E: PyTree,
    e: Array,
    d: Mapping[str, Array],
    reactions: Mapping[str, Reaction],
    params: Mapping[str, Array],
) -> PyTree:
    """Eq. 6, or what another rule has in its place: the gradient-like update of one synapse.

    Args:
      link: what the synapse does.
      E: its weights.
      e: error neurons of its source `[B, ...]`.
      d: edge name -> its displacement, at least of the synapse's edges.
      reactions: region -> its reaction, at least of its targets; a rule that sums nothing needs none.
      params: {path: update} of the source's own parameters; only synapses along paths read them.
    """
    heard = [edge for edge in link.edges if edge.target in reactions]
    z = {edge.name: reactions[edge.target].z for edge in heard}
    y = {edge.name: functools.partial(reactions[edge.target].aim, d[edge.name]) for edge in heard}
    own = {edge.name: d[edge.name] for edge in heard}
    return link.edges[0].rule.learn(link, LinkSignals(E, e, own, z, y, params))
