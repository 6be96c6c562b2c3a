"""What joins two regions: an edge, with the kind of its synapse and the rule by which that learns."""

import abc
import dataclasses
import enum
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from rlra_jax.tables import Table
from rlra_jax.types import Array, PyTree, Region

Shape = tuple[int, ...]
Params = Mapping[str, Array]  # {path: parameter}


class Kind(abc.ABC):
    """What kind of synapse an edge has. Each is a frozen dataclass in a file of its own in `synapses`."""

    follows: ClassVar[bool] = False  # whether it follows the forward path back, from a region to those that feed it

    @abc.abstractmethod
    def draw(
        self, key: Array, source: Region, target: Region, params: Params, std: float, *, from_nothing: bool = False
    ) -> PyTree:
        """A new synapse E.

        Args:
          key: for the draw.
          source: where the error comes from.
          target: where it goes.
          params: {path: parameter} of the model.
          std: standard deviation of the entries, of kinds that stand for no parameter.
          from_nothing: of kinds that stand for parameters, whether E starts at 0 for kernels of zeros.

        Raises:
          ValueError: the kind cannot join these regions.
        """

    @abc.abstractmethod
    def size(self, source: Region, target: Region) -> int:
        """How many numbers E holds; raises as `draw` does."""

    def tiles(self, source: Shape, target: Shape) -> Shape:
        """Into how many tiles each axis of positions of the target `[B, ...]` falls; of a tile E tells only the sum."""
        return target[1:-1]


class Link(Protocol):
    """A synapse at work between two regions: `straight.Straight` or `path.Along`, whose methods say more."""

    edges: 'tuple[Edge, ...]'

    def send(self, E: PyTree, e: Array) -> dict[str, Array]: ...

    def see(self, E: PyTree, signals: Mapping[str, Array]) -> Array: ...

    def correlate(self, E: PyTree, source: Array, signals: Mapping[str, Array]) -> PyTree: ...

    def curvature(self, E: PyTree, step: PyTree, xi: Mapping[str, Array], scale: Array | float) -> Any: ...

    def inputs(self, E: PyTree) -> float: ...


class LinkSignals(NamedTuple):
    """What is known at both ends of a synapse once the recursion has passed it; of the targets by edge name."""

    E: PyTree
    e: Array  # [B, ...j] error neurons of the source
    d: Mapping[str, Array]  # [B, ...i] the edge's own displacement
    z: Mapping[str, Array]  # [B, ...i] activity of the target
    y: Mapping[str, Callable[[Array], Array]]  # d -> [B, ...i]: the target's target, were this the edge's displacement
    params: Mapping[str, Array]  # {path: update} of the source's own parameters


class Rule(abc.ABC):
    """How an edge's synapse learns. Each is a frozen dataclass in a file of its own in `rules`."""

    noisy: ClassVar[bool] = False  # learns in noisy passes how the source responds to the target; `learn` then rests
    sums: ClassVar[bool] = True  # whether `learn`, of a Path, sums over examples beyond the parameters' own updates
    from_nothing: ClassVar[bool] = False  # whether it learns a synapse that sends nothing yet
    rate: ClassVar[float] = 0.01  # a learning rate of plain SGD that suits it
    equal: bool = False  # whether a path's synapse starts as the parameters that it stands for

    @abc.abstractmethod
    def learn(self, link: Link, signals: LinkSignals) -> PyTree:
        """The gradient-like update of a synapse, in E's tree: an optimizer subtracts it."""


def called(choice: Any) -> str:
    """A kind or a rule, with what is not as by default: 'Grid(cells=8)', 'Mirror'."""
    own = {f.name: getattr(choice, f.name) for f in dataclasses.fields(choice)}
    given = ', '.join(f'{f.name}={own[f.name]!r}' for f in dataclasses.fields(choice) if own[f.name] != f.default)
    return type(choice).__name__ + (f'({given})' if given else '')


class Carries(enum.Enum):
    """Which error of its source an edge carries, and when it is heard.

    A region may have two errors. Its *own* is what it would have without the edges that carry own errors. So what such
    an edge brings goes no further than the target, and levels do not grow with the length of the chain.
    """

    ERROR = 'error'
    OWN = 'own'  # the source's own error
    REST = 'rest'  # the output's, for all that goes through regions above; not heard where these send own errors


@dataclasses.dataclass(frozen=True)
class Edge:
    """Carries the source's error neurons to the target, over an error synapse E. A pytree leaf."""

    source: str
    target: str
    kind: Kind
    rule: Rule
    carries: Carries = Carries.ERROR
    share: Hashable = None  # straight edges that have the same one here have one E; None: it has its own

    @property
    def name(self) -> str:
        """The name of this edge, and of its displacement: 'source->target', in quotes if a name has an arrow.

        Of an edge that carries the rest 'source=>target', as another may join the same regions.
        """
        ends = self.source, self.target
        arrow = '=>' if self.carries is Carries.REST else '->'
        return arrow.join(map(repr, ends) if any(sign in end for end in ends for sign in ('->', '=>')) else ends)

    @property
    def synapse(self) -> str:
        """The key of its synapse in the error-pathway pytree. The edges of a path from one source share theirs."""
        source = repr(self.source) if '->' in self.source else self.source
        return f'{source}->' if self.kind.follows else self.name


@dataclasses.dataclass(frozen=True)
class Wiring:
    """All error pathways, grouped by recursion level. Static and hashable."""

    outputs: tuple[str, ...]  # the regions where the recursion starts: one for each array that the model returns
    levels: tuple[tuple[Edge, ...], ...]  # levels[r - 1] holds the edges into the regions of level r
    own: tuple[tuple[Edge, ...], ...] = ()  # the same for the regions' own errors, where an edge carries those
    nearer: frozenset[str] = frozenset()  # of a part: the regions that edges of other parts bring own errors to
    feeds: tuple[tuple[str, str], ...] = ()  # (region, one that reads its activity), as far as is known

    @property
    def output(self) -> str:
        """The one region where the recursion starts; raises ValueError where there are several."""
        if len(self.outputs) > 1:
            raise ValueError(f'this takes a model that returns one array; here errors come from {list(self.outputs)}')
        return self.outputs[0]

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, nearest the output first."""
        return tuple(edge for level in self.levels for edge in level)

    @property
    def unheard(self) -> frozenset[Edge]:
        """Edges that only own errors are made of: those that carry the rest to where own errors come."""
        nearer = self.nearer | {edge.target for edge in self.edges if edge.carries is Carries.OWN}
        return frozenset(edge for edge in self.edges if edge.carries is Carries.REST and edge.target in nearer)

    def _repr_html_(self) -> str:
        rows = [
            (str(r), edge.target, edge.source, called(edge.kind), called(edge.rule))
            for r, level in enumerate(self.levels, start=1)
            for edge in level
        ]
        return Table(('level', 'region', 'hears from', 'kind', 'rule'), rows, ('level',)).html()

    @property
    def level_of(self) -> dict[str, int]:
        """Region -> its recursion level, 0 of an output; regions that no error comes to have none."""
        numbered = enumerate(self.levels, start=1)
        return dict.fromkeys(self.outputs, 0) | {edge.target: r for r, level in numbered for edge in level}

    @property
    def synapses(self) -> tuple[dict[str, tuple[Edge, ...]], ...]:
        """Level by level, {synapse: its edges}. The edges of a path may lie in several levels; it lies in the first."""
        served: dict[str, tuple[Edge, ...]] = {}
        for edge in self.edges:
            served[edge.synapse] = (*served.get(edge.synapse, ()), edge)
        levels = []
        for level in self.levels:
            found = dict.fromkeys(edge.synapse for edge in level)
            levels.append({name: served.pop(name) for name in found if name in served})
        return tuple(levels)
