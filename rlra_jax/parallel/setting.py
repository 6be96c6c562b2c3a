"""What all blocks share in one step: the model taken apart, options, randomness, and which examples are seen."""

from collections.abc import Mapping
from typing import NamedTuple

from rlra_jax.edges import Carries, Edge, Wiring
from rlra_jax.parallel.blocks import Block, of_synapses
from rlra_jax.parallel.dissect import Flat, Part
from rlra_jax.parallel.shares import Shares
from rlra_jax.recursion.options import Options
from rlra_jax.rules.mirror import Mirror, mirror_of
from rlra_jax.types import Array, Phi, PyTree
from rlra_jax.validate import per_region


class Setting(NamedTuple):
    """What all blocks share in one step."""

    shares: Shares
    options: Options
    mirror: Mirror  # the rule of edges that learn from noise; any where there are none
    signs: tuple[float, ...]  # of the noise in each pass that runs through all blocks
    kappas: Mapping[str, float]
    alphas: Mapping[str, float]
    key: Array  # of the model's random streams
    size: int  # B, over which updates are averaged
    start: Array | int  # where in the batch the examples begin that `parts` see
    shared: tuple[str, ...]  # axes of the mesh over which the batch is split

    @property
    def parts(self) -> Mapping[str, Part]:
        """The model taken apart."""
        return self.shares.parts

    def phi(self, block: Block) -> dict[str, Phi]:
        """{region: activation function} of a block's hidden regions."""
        return {name: phi for name in block.regions if (phi := self.parts[name].phi) is not None}

    def by_level(self, block: Block, synapses: Flat) -> PyTree:
        """A block's synapses as the error-pathway pytree of its own wiring."""
        parts = self.shares.of(block.regions)

        def like(edge: Edge) -> PyTree:
            return dict.fromkeys(parts[edge.source].region.weights, 0) if edge.kind.follows else 0

        levels = ({name: like(edges[0]) for name, edges in level.items()} for level in block.wiring.synapses)
        return tuple(of_synapses(level, synapses) for level in levels)


def setting(
    parts: Mapping[str, Part],
    options: Options,
    wiring: Wiring,
    key: Array,
    size: int,
    start: Array | int = 0,
    shared: tuple[str, ...] = (),
) -> Setting:
    """Resolves the per-region options.

    Raises:
      ValueError: an option names an unknown region.
    """
    hidden = [name for name, part in parts.items() if part.phi is not None]
    kappas, alphas = per_region('kappa', options.kappa, parts), per_region('alpha', options.alpha, hidden)
    mirror = mirror_of(wiring) or Mirror()
    return Setting(Shares(parts), options, mirror, signs(wiring, mirror), kappas, alphas, key, size, start, shared)


def signs(wiring: Wiring, mirror: Mirror) -> tuple[float, ...]:
    """Of the noise in each pass that runs through all blocks; one without tells what paths see beside the rest."""
    rest = any(edge.carries is Carries.REST for edge in wiring.edges)
    return (1.0, *([-1.0] if mirror.antithetic else []), *([0.0] if rest else []))
