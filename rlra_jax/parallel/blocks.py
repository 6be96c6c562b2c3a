"""A model and its wiring as a chain of blocks that know nothing of each other but one activity and the output.

A block ends behind a region where a single activity goes on upwards. Errors come to it from the output. From the block
above only own errors may come (`overlap`), which end there: the block that has them hands down what they displace.
Outputs that are a sum may read several blocks: see `shares.py`. With `wire_blocks` a block is a level-1 region and the
regions that hear from it. Blocks that compute the same function in a row form a `Run`; their arrays are kept stacked,
`[blocks, ...]`, under the names of the first of them.
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.edges import Carries, Edge, Wiring
from rlra_jax.parallel.dissect import INPUT, Flat, Part
from rlra_jax.parallel.shares import SUM, Shares
from rlra_jax.paths import flatten, refill
from rlra_jax.recursion.options import Options
from rlra_jax.rules.noisy_passes import group
from rlra_jax.types import Array, PyTree
from rlra_jax.validate import per_region


class Block(NamedTuple):
    """Regions in forward order; the last one's activity is all that the next block reads."""

    regions: tuple[str, ...]
    entry: str  # the region whose activity the block reads, or INPUT
    wiring: Wiring  # the edges into its own regions and to the block below; no levels for the output alone
    params: tuple[str, ...]  # paths; with those of its share of the outputs
    stats: tuple[str, ...]
    edges: tuple[str, ...]  # keys of the error synapses into the block, as `to_flat` names them
    signature: tuple[Any, ...]  # equal for blocks that compute and learn alike

    @property
    def handed(self) -> tuple[Edge, ...]:
        """The edges that carry own errors to the block below."""
        return tuple(edge for edge in self.wiring.edges if edge.target == self.entry)


Run = tuple[Block, ...]  # blocks in a row with one signature


def find_runs(parts: Mapping[str, Part], wiring: Wiring, options: Options) -> tuple[Run, ...]:
    """Splits a model into as many blocks as its wiring allows.

    Raises:
      ValueError: it leaves all hidden regions in one, and tells which edges or activities reach across.
    """
    names = list(parts)
    crossings: list[list[str]] = [[] for _ in names]
    shares = Shares(parts)
    for across, what in _obstacles(shares, wiring):
        for i in across:
            crossings[i].append(what)
    ends = [i for i, found in enumerate(crossings) if not found]
    if ends[0] >= len(names) - 2 > 0:
        listing = '\n'.join(
            f'  behind {n}: {", ".join(found)}' for n, found in zip(names, crossings, strict=True) if found
        )
        raise ValueError(
            'the wiring leaves all hidden regions in one block: between two blocks nothing may pass but one activity '
            f'upwards, and errors from the output {wiring.output!r}. What passes otherwise:\n{listing}'
        )
    blocks, start = [], 0
    for end in ends:
        blocks.append(_block(names[start : end + 1], names[start - 1] if start else INPUT, shares, wiring, options))
        start = end + 1
    runs: list[Run] = []
    for block in blocks:
        if runs and runs[-1][0].signature == block.signature:
            runs[-1] += (block,)
        else:
            runs.append((block,))
    return tuple(runs)


def find_stages(
    runs: Sequence[Run], parts: Mapping[str, Part], wiring: Wiring, options: Options, weights: Flat, count: int
) -> tuple[Block, ...]:
    """Joins neighbouring blocks to `count` stages whose largest number of parameters is least.

    Raises:
      ValueError: there are fewer blocks than stages.
    """
    blocks = [block for run in runs for block in run]
    if len(blocks) < count:
        leave = [block.regions[-1] for block in blocks]
        raise ValueError(f'{count} stages need as many blocks, but wiring and model leave {len(blocks)}, up to {leave}')
    sizes = [sum(weights[path].size for path in block.params) for block in blocks]
    cuts, shares = _cut(sizes, count), Shares(parts)
    stages = []
    for start, stop in zip([0, *cuts], [*cuts, len(blocks)], strict=True):
        names = [name for block in blocks[start:stop] for name in block.regions]
        stages.append(_block(names, blocks[start].entry, shares, wiring, options))
    return tuple(stages)


def _cut(sizes: Sequence[int], count: int) -> list[int]:
    """Where to cut `sizes` into `count` non-empty parts with the least largest sum: tries every possible maximum."""
    sums = {sum(sizes[i:j]) for i in range(len(sizes)) for j in range(i + 1, len(sizes) + 1)}
    for most in sorted(sums):
        cuts: list[int] = []
        start = 0
        for i in range(1, len(sizes)):
            if sum(sizes[start : i + 1]) > most or len(sizes) - i == count - 1 - len(cuts):
                cuts.append(i)
                start = i
        bounds = [0, *cuts, len(sizes)]
        if len(cuts) == count - 1 and all(sum(sizes[a:b]) <= most for a, b in itertools.pairwise(bounds)):
            return cuts
    raise AssertionError('the sum of all sizes is always enough')


def _obstacles(shares: Shares, wiring: Wiring) -> Iterator[tuple[range, str]]:
    """(places behind which no block may end, counted from 0, and what forbids it)."""
    parts, apart = shares.parts, shares.apart
    place = {INPUT: -1, **{name: i for i, name in enumerate(parts)}}
    last_reader = {
        parent: i
        for i, (name, part) in enumerate(parts.items())
        for parent in part.parents
        if name != wiring.output or parent not in apart
    }
    for name, reader in sorted(last_reader.items(), key=lambda item: place[item[0]]):
        yield range(place[name] + 1, reader), f'activity of {name!r}'
    hears_more = {edge.target for edge in wiring.edges if edge.carries is not Carries.OWN}
    for edge in wiring.edges:
        if edge.source != wiring.output or (edge.kind.follows and (edge.rule.noisy or edge.target not in apart)):
            below, above = sorted((place[edge.source], place[edge.target]))
            handed = edge.carries is Carries.OWN and not edge.rule.sums and edge.target in hears_more
            start = below + 1 if handed else below
            yield range(start, above), f'edge {edge.name}'
    for edges in group(wiring, list(parts))[1:]:
        for edge in edges:
            if edge.source == wiring.output:
                yield range(place[edge.target], len(parts) - 1), f'mirror of edge {edge.name}'


def _block(names: Sequence[str], entry: str, shares: Shares, wiring: Wiring, options: Options) -> Block:
    def held(edge: Edge) -> bool:
        crosses = edge.source != wiring.output and (edge.source in names) != (edge.target in names)
        return edge.source in names if crosses else edge.target in names

    def within(levels: Sequence[tuple[Edge, ...]]) -> tuple[tuple[Edge, ...], ...]:
        return tuple(kept for level in levels if (kept := tuple(filter(held, level))))

    beyond = {e.target for e in wiring.edges if e.carries is Carries.OWN and not held(e)}
    nearer = frozenset(beyond.intersection(names))
    own = Wiring((wiring.output,), within(wiring.levels), within(wiring.own), nearer, wiring.feeds)
    parts = shares.of(names)
    params = tuple(path for part in parts.values() for path in part.params)
    stats = tuple(path for part in parts.values() for path in part.stats)
    place = {entry: -1, **{name: i for i, name in enumerate(names)}, wiring.output: 'output', SUM: 'sum'}
    kappa = per_region('kappa', options.kappa, shares.parts)
    alpha = per_region('alpha', options.alpha, list(shares.parts)[:-1])

    def told(e: Edge) -> tuple[Any, ...]:
        return place[e.source], place[e.target], e.kind, e.rule, e.carries, e in own.unheard

    def programs(name: str, part: Part) -> tuple[Any, ...]:
        return part.signature, tuple(place[parent] for parent in part.parents), kappa[name], alpha.get(name)

    edges: list[str] = []
    for synapse, (first, *_) in ((name, edges) for level in own.synapses for name, edges in level.items()):
        along = parts[first.source].region.weights if first.kind.follows else ('',)
        edges += [key_of(synapse, path) for path in along]

    signature = (
        tuple(programs(name, part) for name, part in parts.items()),
        tuple(tuple(map(told, level)) for level in own.levels),
        wiring.output in names,
    )
    return Block(tuple(names), entry, own, params, stats, tuple(edges), signature)


def pack(runs: Sequence[Run], flat: Flat, field: str) -> tuple[dict[str, Array], ...]:
    """{name: leaf} -> for each run {name in its first block: leaves stacked `[blocks, ...]`}.

    Args:
      runs: from `find_runs`.
      flat: parameters, statistics or synapses of the whole model.
      field: which of them: 'params', 'stats' or 'edges'.
    """
    return tuple(
        {
            names[0]: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(flat[name] for name in names))
            for names in zip(*(getattr(block, field) for block in run), strict=True)
        }
        for run in runs
    )


def unpack(runs: Sequence[Run], packed: Sequence[Flat], field: str) -> dict[str, Array]:
    """The inverse of `pack`."""
    return {
        name: jax.tree.map(operator.itemgetter(i), leaves[names[0]])
        for run, leaves in zip(runs, packed, strict=True)
        for names in zip(*(getattr(block, field) for block in run), strict=True)
        for i, name in enumerate(names)
    }


def to_flat(tree: PyTree, field: str) -> dict[str, Array]:
    """Parameters as {path: leaf}; or an error-pathway pytree as {synapse: E}, for paths {'j-> path': leaf}."""
    if field == 'params':
        return flatten(tree)
    every = ((synapse, E) for level in tree for synapse, E in level.items())
    return {key_of(synapse, path): leaf for synapse, E in every for path, leaf in _leaves(E).items()}


def from_flat(tree: PyTree, flat: Flat, field: str) -> PyTree:
    """The inverse of `to_flat`; of `tree` only the structure matters."""
    if field == 'params':
        return refill(tree, flat)
    return tuple(of_synapses(level, flat) for level in tree)


def of_synapses(level: Mapping[str, PyTree], flat: Flat) -> dict[str, PyTree]:
    """{synapse: E}, from what `to_flat` made of it; of `level` only the structure matters."""
    return {
        name: jax.tree.unflatten(jax.tree.structure(E), [flat[key_of(name, path)] for path in _leaves(E)])
        for name, E in level.items()
    }


def key_of(synapse: str, path: str) -> str:
    """How `to_flat` names a part of a synapse: 'j-> dense_1/kernel'; without a path the whole: 'j->i'."""
    return f'{synapse} {path}' if path else synapse


def _leaves(E: PyTree) -> dict[str, Any]:
    """Of a synapse: {parameter's path: leaf} along a path, in the order of a tree; else {'': E}."""
    return dict(sorted(E.items())) if isinstance(E, Mapping) else {'': E}


def over(run: Run, body: Callable[[PyTree, PyTree], PyTree], carry: PyTree, xs: PyTree) -> PyTree:
    """Carries through body(carry, x) for the blocks of a run; leaves of xs are `[blocks, ...]`.

    Only where a run has several blocks, so that what enters has the shape of what leaves, can this be a scan.
    """
    if len(run) == 1:
        return body(carry, jax.tree.map(lambda leaf: leaf[0], xs))
    return jax.lax.scan(lambda carry, x: (body(carry, x), None), carry, xs)[0]


def take(tree: PyTree, index: Array | int) -> PyTree:
    """One block's leaves of a run's stacked ones."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree)


def put(tree: PyTree, index: Array | int, block: PyTree) -> PyTree:
    """The stacked leaves with one block's replaced; in place where the compiler may."""
    return jax.tree.map(lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, index, 0), tree, block)
