"""Error synapses that follow the forward path back, from a region to all that feed it.

E is a tree like the parameters that an error meets on its way back through the region, with values of its own. An
error e_j at the region's pre-activation h_j comes back to every activity z_i that h_j reads by the transpose of dh_j /
dz_i. In it E takes the place of parameters, and all that the path computed from activities stays as it passed
(`backward_pass.py`). So residual skips, normalisation, pooling, attention, gates and dropout need no kind of their own,
and no kernel is transported. What depends on an activity and on a parameter, such as a normalisation's scale over its
standard deviation, counts as an activity.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from rlra_jax.compiler import varying_like
from rlra_jax.edges import Edge, Kind, Params, Wiring
from rlra_jax.loss import widen
from rlra_jax.model.backward_pass import Meet
from rlra_jax.model.programs import Program, Values, way_back
from rlra_jax.model.sparse import largest
from rlra_jax.model.walk import runs
from rlra_jax.types import Array, PyTree, Region
from rlra_jax.validate import require

Weights = Mapping[str, Array]  # E: {path of a parameter: an array of its shape, float32 or wider}


@dataclasses.dataclass(frozen=True)
class Path(Kind):
    """E stands for the parameters that an error meets on its way back; the edges from one source share it.

    Attributes:
      sends: share of the channels that an error sends where it meets E: those where it is largest, per product. Of the
        edges from one source all have the same. What E learns does not depend on it.
    """

    sends: float = 1.0

    follows: ClassVar[bool] = True

    def __post_init__(self):
        require(0 < self.sends <= 1, 'sends', 'a share of channels, above 0 and at most 1', self.sends)

    def draw(
        self, key: Array, source: Region, target: Region, params: Params, std: float, *, from_nothing: bool = False
    ) -> dict[str, Array]:
        """{path: E} of the source's region, each like the parameter that it stands for: see `draw_like`."""
        keys = jax.random.split(key, max(len(source.weights), 1))
        axes = dict(source.scanned)
        like = functools.partial(draw_like, from_nothing=from_nothing)

        def draw(name: str, key: Array) -> Array:
            W, axis = params[name], axes.get(name)
            if axis is None:
                return like(key, W)
            return jax.vmap(like, (0, axis), axis)(jax.random.split(key, W.shape[axis]), W)

        return {name: draw(name, own) for name, own in zip(source.weights, keys, strict=False)}

    def size(self, source: Region, target: Region) -> int:
        return source.weights_size


class Along:
    """The way back from one region over its edges of the kind `Path`; linear in signals, not in E.

    Args:
      edges: of one source.
      program: of the source's pre-activation.
      values: all that the program reads, as it passed.
      across: inside shard_map: the axes over which the batch is split. What depends on all examples is then averaged
        over them: which channels have the largest errors and, of edges that learn from noise, the step size.

    Attributes:
      edges: as given.
      weights: the parameters that an error meets on its way back, which E must have; sorted.

    Raises:
      ValueError: edges that send unlike shares of the channels.
    """

    def __init__(self, edges: Sequence[Edge], program: Program, values: Values, across: tuple[str, ...] = ()):
        self.edges = tuple(edges)
        self._across = across if any(edge.rule.noisy for edge in edges) else ()
        (sends, *others) = {edge.kind.sends for edge in edges if isinstance(edge.kind, Path)}
        require(not others, 'sends', f'alike for all edges from {edges[0].source!r}', sorted([sends, *others]))
        self._meet = functools.partial(largest, share=sends, across=across) if sends < 1 else None
        self._own = {name: values['params'][name] for name in program.named('params')}
        self._back = way_back(program, values)
        self._backward_only = runs(program.jaxpr, 'custom_vjp_call')  # whose derivative JAX knows in no other direction
        met = [numbers for numbers in self._back.met()['z'].values() if numbers is not None]
        used = set().union(*met)
        self.weights = tuple(name for i, name in enumerate(sorted(self._own)) if i in used)

    def send(self, E: Weights, e: Array) -> dict[str, Array]:
        """{edge name: displacement `[B, ...i]`} of an error `[B, ...j]`; float32 or wider.

        Raises:
          ValueError: E has other weights than it must.
        """
        return self._sent(E, e, self._meet)

    def _sent(self, E: Weights, e: Array, meet: Meet | None = None) -> dict[str, Array]:
        """The same, of all channels unless `meet` leaves some out."""
        if set(E) != set(self.weights):
            raise ValueError(
                f'the synapse {self.edges[0].synapse!r} must hold the parameters that an error meets on its way, '
                f'{list(self.weights)}; got {sorted(E)}'
            )
        # Inside shard_map they must vary over the devices that the parameters vary over; no value is read.
        own = self._own.items()
        unmet = {name: varying_like(jnp.zeros_like(W), W) for name, W in own if name not in E}
        weights = self._back.weights(unmet | {name: value.astype(self._own[name].dtype) for name, value in E.items()})
        found = self._back.pull(weights, e.astype(self._back.out.dtype), meet)['z']
        return {edge.name: widen(found[edge.target]) for edge in self.edges}

    def see(self, E: Weights, signals: Mapping[str, Array]) -> Array:
        """The transpose of `send` in e, over all channels.

        Signals {edge name: `[B, ...i]`} at the targets, as they come to the source.
        """
        point = widen(self._back.out)  # any will do

        def heard(e: Array) -> dict[str, Array]:
            sent = self._sent(E, e)
            return {name: sent[name] for name in signals}

        return jax.vjp(heard, point)[1](dict(signals))[0]

    def correlate(self, E: Weights, source: Array, signals: Mapping[str, Array]) -> dict[str, Array]:
        """The batch mean of source^T target as E sees it: the gradient in E of the agreement of `send` with signals.

        Args:
          E: the synapse.
          source: a signal `[B, ...j]`.
          signals: {edge name: a signal `[B, ...i]` at its target}; of the edges left out, none.
        """

        def agreement(E: Weights) -> Array:
            sent = self._sent(E, source)
            return sum(((sent[name] * signal).sum() for name, signal in signals.items()), start=jnp.zeros(()))

        return self._mean(jax.tree.map(lambda g: g / len(source), jax.grad(agreement)(dict(E))))

    def curvature(self, E: Weights, step: Weights, xi: Mapping[str, Array], scale: Array | float) -> Array:
        """How steeply the mean squared response to xi rises along a step in E: exact, whatever the others do.

        Nothing is known beforehand: parameters that share an input, scales of unlike channels, taps that look beyond
        the border. With a step divided by this E never leaves what it tends to, where `see` is linear in E.
        """
        largest = functools.reduce(jnp.maximum, (jnp.abs(g).max(initial=0) for g in step.values()), jnp.zeros(()))
        divisor = jnp.where(largest == 0, 1, largest)  # squares would overflow
        unit = {name: (g / divisor).astype(E[name].dtype) for name, g in step.items()}
        moved = self._derivative(lambda E: self.see(E, xi), dict(E), unit)
        length = sum((jnp.square(g).sum() for g in unit.values()), start=jnp.zeros(()))
        steepness = self._mean(jnp.square(moved).sum() / (len(moved) * jnp.where(length == 0, 1, length)))
        return jnp.where(steepness == 0, jnp.inf, steepness)

    def _derivative(self, function: Callable[[Weights], Array], E: Weights, step: Weights) -> Array:
        """Of a function at E along a step."""
        if not self._backward_only:
            return jax.jvp(function, (E,), (step,))[1]
        at_E, pull = jax.vjp(function, E)
        _, push = jax.vjp(lambda e: pull(e)[0], jnp.zeros_like(at_E))  # the transpose of the transpose
        return push(step)[0]

    def _mean(self, tree: PyTree) -> PyTree:
        """Over the devices that have other examples."""
        if not self._across:
            return tree
        return jax.tree.map(varying_like, jax.lax.pmean(tree, self._across), tree)

    def inputs(self, E: Weights) -> float:
        """Parameters per unit of the source: how many noise inputs a unit has."""
        return sum(value.size for value in E.values()) / math.prod(self._back.out.shape[1:])


def draw_like(key: Array, W: Array, *, from_nothing: bool = False) -> Array:
    """A synapse of a parameter's shape, float32 or wider: normal numbers with its standard deviation.

    Of a kernel that is the same everywhere, as zeros would never pass an error, with Glorot's. Vectors and scalars,
    which scale activities, start as the mean of the parameter, or as 1 where that is 0, as of a gate that starts shut.

    Args:
      key: for the draw.
      W: the parameter.
      from_nothing: a kernel of zeros has a synapse of zeros, from which its rule learns. A random one would send errors
        that W does not, until it has unlearnt them.
    """
    wide = widen(W)
    if W.ndim < 2:
        mean = wide.mean()
        return jnp.broadcast_to(jnp.where(mean == 0, 1, mean), W.shape)
    std = wide.std()
    same = jnp.where(wide.any(), glorot(W), 0) if from_nothing else glorot(W)
    return jnp.where(std == 0, same, std) * jax.random.normal(key, W.shape, wide.dtype)


def glorot(W: Array) -> float:
    """The standard deviation of Glorot's initialisation of a kernel `[taps..., inputs, outputs]`."""
    return math.sqrt(2 / (math.prod(W.shape[:-2]) * (W.shape[-2] + W.shape[-1])))


def shared(wiring: Wiring, synapses: PyTree, join: Callable[[Edge, Sequence[Array]], Array]) -> PyTree:
    """Synapses, or their updates, in which all have the same for a parameter that they stand for, or by `Edge.share`.

    Each holds a copy. If they start alike and get the same updates, all of them stay one E.

    Args:
      wiring: the error pathways.
      synapses: the error-pathway pytree.
      join: (an edge that they serve, what several have) -> what all of them get.
    """
    served = {name: edges[0] for level in wiring.synapses for name, edges in level.items()}

    def parts(name: str, E: PyTree) -> Mapping[Hashable, Array]:
        edge = served[name]
        return E if edge.kind.follows else {edge.share: E} if edge.share is not None else {}

    def filled(name: str, E: PyTree) -> PyTree:
        found = {part: one[part] for part in parts(name, E)}
        return found if served[name].kind.follows else found.get(served[name].share, E)

    found: dict[Hashable, list[Array]] = {}
    edges: dict[Hashable, Edge] = {}
    for level in synapses:
        for name, E in level.items():
            for part, value in parts(name, E).items():
                found.setdefault(part, []).append(value)
                edges[part] = served[name]
    one = {part: join(edges[part], values) if len(values) > 1 else values[0] for part, values in found.items()}
    return tuple({name: filled(name, E) for name, E in level.items()} for level in synapses)


def find_ways(
    wiring: Wiring, programs: Mapping[str, Program], values: Values, across: tuple[str, ...] = ()
) -> dict[str, Along]:
    """{source: the way back over its edges that follow the forward path}; `across` as for `Along`."""
    edges: dict[str, list[Edge]] = {}
    for edge in wiring.edges:
        if edge.kind.follows:
            edges.setdefault(edge.source, []).append(edge)
    return {source: Along(own, programs[source], values, across) for source, own in edges.items()}
