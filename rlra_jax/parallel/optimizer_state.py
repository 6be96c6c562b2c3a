"""The state of an optimizer of whole weights, split among blocks and put together again.

What belongs to a weight lies in the state where the weight lies among the weights, behind keys of the optimizer's own.
All else, such as a count of steps, every block has.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlra_jax.parallel.blocks import Block, Run, from_flat, to_flat
from rlra_jax.parallel.check_blockwise import check_blockwise
from rlra_jax.paths import flatten, refill
from rlra_jax.types import Array, PyTree, Weights
from rlra_jax.validate import require_optimizer

Place = tuple[Any, ...]  # the keys on the way to a leaf of a tree


def pack_state(
    runs: Sequence[Run], state: PyTree, weights: Weights, optimizer: optax.GradientTransformation
) -> tuple[PyTree, ...]:
    """An optax state of whole weights -> for each run its blocks' states, stacked; counters are repeated.

    Args:
      runs: from `find_runs`.
      state: the optax state.
      weights: what the optimizer was initialised with.
      optimizer: whose state it is.
    """
    leaves, flat = dict(jax.tree.leaves_with_path(state)), _flat(weights)
    place_of = {name: place for place, name in _names(_whole(weights, _itself(flat))).items()}

    def of_run(run: Run) -> PyTree:
        alike = _alike(run)
        first = _names(_by_part(_itself(alike)))

        def leaf(place: Place, _: Any) -> Array:
            if place[-2:] not in first:
                return jnp.broadcast_to(leaves[place], (len(run), *jnp.shape(leaves[place])))
            return jnp.stack([leaves[(*place[:-2], *place_of[name])] for name in alike[first[place[-2:]]]])

        return jax.tree.map_with_path(leaf, jax.eval_shape(optimizer.init, _by_part({n: flat[n] for n in alike})))

    return tuple(map(of_run, runs))


def unpack_state(runs: Sequence[Run], packed: Sequence[PyTree], state: PyTree, weights: Weights) -> PyTree:
    """The inverse of `pack_state`; of `state`, which may be abstract, only the structure matters."""
    leaves = [dict(jax.tree.leaves_with_path(of_run)) for of_run in packed]
    names = _names(_whole(weights, _itself(_flat(weights))))
    held: dict[str, tuple[int, int, Place]] = {}  # name -> its run, its block, its place in the state of a block alone
    for k, alike in enumerate(map(_alike, runs)):
        for place, first in _names(_by_part(_itself(alike))).items():
            held |= {name: (k, i, place) for i, name in enumerate(alike[first])}

    def leaf(place: Place, _: Any) -> Array:
        start = next((start for start in range(len(place)) if place[start:] in names), None)
        if start is None:
            return leaves[0][place][0]
        k, i, own = held[names[place[start:]]]
        return leaves[k][(*place[:start], *own)][i]

    return jax.tree.map_with_path(leaf, state)


def check_optimizer(optimizer: optax.GradientTransformation, runs: Sequence[Run], weights: Weights) -> None:
    """Raises ValueError unless it does to each block's part of the weights what it does to the whole."""
    require_optimizer('optimizer', optimizer)
    names = [[_of(block) for block in run] for run in runs]
    check_blockwise(optimizer, _flat(weights), lambda flat: _whole(weights, flat), _by_part, names)


def _of(block: Block) -> list[str]:
    """The names of a block's weights in `_flat`."""
    return [f'params {path}' for path in block.params] + [f'synapses {name}' for name in block.edges]


def _alike(run: Run) -> dict[str, tuple[str, ...]]:
    """The name of a weight in the first block of a run -> those of the same in all of its blocks."""
    return {names[0]: names for names in zip(*map(_of, run), strict=True)}


def _flat(weights: Weights) -> dict[str, Any]:
    """Weights as one dictionary."""
    params, synapses = flatten(weights['params']), to_flat(weights['synapses'], 'edges')
    return {f'params {path}': leaf for path, leaf in params.items()} | {
        f'synapses {name}': leaf for name, leaf in synapses.items()
    }


def _by_part(flat: Mapping[str, Any]) -> Weights:
    """A block's weights, as an optimizer gets them, from what has the names of `_flat`."""
    found: Weights = {'params': {}, 'synapses': {}}
    for name, leaf in flat.items():
        part, _, rest = name.partition(' ')
        found[part][rest] = leaf
    return found


def _whole(like: Weights, flat: Mapping[str, Any]) -> Weights:
    """The inverse of `_flat`; of `like` only the structure matters."""
    parts = _by_part(flat)
    return {
        'params': refill(like['params'], parts['params']),
        'synapses': from_flat(like['synapses'], parts['synapses'], 'edges'),
    }


def _itself(names: Any) -> dict[str, str]:
    return {name: name for name in names}


def _names(tree: PyTree) -> dict[Place, str]:
    """Place -> name, of a tree whose leaves are names."""
    return dict(jax.tree.leaves_with_path(tree))
