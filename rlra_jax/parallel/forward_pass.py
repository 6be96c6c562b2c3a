"""A block's forward pass: what enters it, what it leaves, and what leaves it; and the ways back through it."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from rlra_jax.compiler import varying_like
from rlra_jax.parallel.blocks import Block
from rlra_jax.parallel.dissect import Flat, values
from rlra_jax.parallel.setting import Setting
from rlra_jax.parallel.shares import SUM
from rlra_jax.synapses.path import Along, find_ways
from rlra_jax.types import Array

Leave = Callable[[str, Array], Array]


class Held(NamedTuple):
    """A block's own arrays, by the names in the first block of its run."""

    params: Flat
    stats: Flat
    synapses: Flat  # as `blocks.to_flat` names them


class Flow(NamedTuple):
    """What goes up from block to block."""

    z: Array  # [B, ...] an activity; from the last block the outputs
    sum: Array | None = None  # [B, ...] what the outputs have got so far, where blocks have shares in them


class Passed(NamedTuple):
    """What a block's forward pass leaves."""

    h: dict[str, Array]  # region -> pre-activation [B, ...]; of the output the block's share
    z: dict[str, Array]  # region -> activity; what entered, too
    stats: Flat


def bottom(at: Setting, x: Array) -> Flow:
    """What enters the first block, of the batch's array `[B, ...]`."""
    output = at.parts[list(at.parts)[-1]]
    if not at.shares.apart:
        return Flow(x)
    nothing = jnp.zeros((len(x), *output.shape[1:]), output.dtype)
    return Flow(x, varying_like(nothing, x.reshape(-1)[0].astype(output.dtype)))


def entering(block: Block, flow: Flow) -> dict[str, Array]:
    """{name: activity} of what enters a block."""
    return {block.entry: flow.z} | ({} if flow.sum is None else {SUM: flow.sum})


def leaving(block: Block, passed: Passed) -> Flow:
    """What leaves a block."""
    output = block.wiring.output
    last = passed.z[block.regions[-1]]
    return Flow(last) if output in block.regions else Flow(last, passed.h.get(output, passed.z.get(SUM)))


def run(at: Setting, block: Block, held: Held, flow: Flow, leave: Leave = lambda name, z: z) -> Passed:
    """Runs a block on what enters it."""
    h: dict[str, Array] = {}
    z = entering(block, flow)
    stats: dict[str, Array] = {}
    for name, part in at.shares.of(block.regions).items():
        h[name], activity, renewed = part.run(held.params, held.stats, z, at.key)
        z[name] = leave(name, activity) if part.phi else activity
        stats |= renewed
    return Passed(h, z, stats)


def paths(at: Setting, block: Block, held: Held, passed: Passed) -> dict[str, Along]:
    """{source: the way back over its edges of the kind `Path`}."""
    programs = {name: part.own for name, part in at.shares.of(block.regions).items()}
    return find_ways(block.wiring, programs, values(held.params, held.stats, passed.z, at.key), at.shared)
