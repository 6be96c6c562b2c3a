"""A straight synapse to a region in a loop."""

import dataclasses

import jax
import numpy as np

from rlra_jax.edges import Shape
from rlra_jax.synapses.straight import StraightKind, Usage
from rlra_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Each(StraightKind):
    """To each iteration of a loop `[B, iterations, ...]` a synapse of another kind, or to all of them the same one.

    Attributes:
      kind: of a synapse to one iteration.
      one: whether all have the same.
    """

    kind: StraightKind
    one: bool = False

    def init(self, key: Array, source: Shape, target: Shape, std: float) -> Array:
        """E `[iterations, ...]`, or of one iteration."""

        def draw(key: Array) -> Array:
            return self.kind.init(key, source, _iteration(target), std)

        return draw(key) if self.one else jax.vmap(draw)(jax.random.split(key, target[1]))

    def see(self, E: Array, z: Array, source: Shape) -> Array:
        """The sum of what is seen of all iterations."""
        if self.one:
            return self.kind.see(E, z.sum(axis=1), source)
        return jax.vmap(lambda E, z: self.kind.see(E, z, source), (0, 1))(E, z).sum(axis=0)

    def usage(self, source: Shape, target: Shape) -> Usage:
        repeats, inputs = self.kind.usage(source, _iteration(target))
        if self.one:
            return Usage(repeats * target[1], inputs)
        return Usage(np.asarray(repeats)[None] if np.ndim(repeats) else repeats, inputs * target[1])

    def tiles(self, source: Shape, target: Shape) -> Shape:
        return (1 if self.one else target[1], *self.kind.tiles(source, _iteration(target)))


def _iteration(shape: Shape) -> Shape:
    return (shape[0], *shape[2:])
