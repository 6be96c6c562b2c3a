"""What a block learns by itself, once its forward pass has run and the output's errors are known."""

import dataclasses
import functools
import operator
from collections.abc import Mapping

import jax

from rlra_jax.loss import widen
from rlra_jax.parallel import block_noise
from rlra_jax.parallel.blocks import Block, to_flat
from rlra_jax.parallel.dissect import Part
from rlra_jax.parallel.forward_pass import Held, Passed
from rlra_jax.parallel.setting import Setting
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.propagate import Recursion, Signals, connect, propagate
from rlra_jax.recursion.targets import total_discrepancy
from rlra_jax.recursion.update import synapse_grads
from rlra_jax.rules.mirror import mirror_of
from rlra_jax.synapses.path import Along
from rlra_jax.types import Array, PyTree, Weights


def spread(
    at: Setting,
    block: Block,
    held: Held,
    passed: Passed,
    paths: Mapping[str, Along],
    outputs: Array,
    e: Array,
    known: Mapping[str, Array] | None = None,
    from_above: Array | None = None,
) -> Signals:
    """The recursion within a block.

    Args:
      at: the step.
      block: whose regions learn.
      held: the block's arrays.
      passed: what its forward pass left.
      paths: the ways back in it.
      outputs: the model's `[B, ...]`.
      e: their error neurons `[B, ...]`.
      known: edge name -> its displacement, where the errors have been sent before.
      from_above: what the block above handed down, a displacement `[B, ...]` of the last region.
    """
    root = {block.wiring.output: e}
    beside = {} if from_above is None else {block.regions[-1]: from_above}
    h, levels, options = _known_here(at, block, held, passed, outputs)
    return propagate(block.wiring, levels, h, at.phi(block), root, options, known=known, beside=beside, paths=paths)


def own_errors(
    at: Setting,
    block: Block,
    held: Held,
    passed: Passed,
    paths: Mapping[str, Along],
    outputs: Array,
    e: Array,
) -> dict[str, Array]:
    """{edge name: displacement} of the block's edges that carry own errors: what the recursion within it begins with.

    Args: as of `spread`.
    """
    h, levels, options = _known_here(at, block, held, passed, outputs)
    return Recursion(block.wiring, levels, h, at.phi(block), options, paths).own({block.wiring.output: e})[1]


def handed_down(block: Block, sent: Mapping[str, Array]) -> Array | None:
    """What the last region of the block below gets of own errors, a displacement `[B, ...]`; None: nothing."""
    return functools.reduce(operator.add, (sent[edge.name] for edge in block.handed)) if block.handed else None


def _known_here(
    at: Setting, block: Block, held: Held, passed: Passed, outputs: Array
) -> tuple[dict[str, Array], PyTree, Options]:
    """(pre-activations, synapses by level, options), as the recursion within a block takes them."""
    h = {name: widen(value) for name, value in passed.h.items()} | {block.wiring.output: widen(outputs)}
    options = at.options
    if isinstance(options.alpha, Mapping):  # in one block only its own regions are known
        options = dataclasses.replace(options, alpha={name: at.alphas[name] for name in at.phi(block)})
    return h, at.by_level(block, held.synapses), options


def discrepancy(at: Setting, block: Block, signals: Signals) -> Array:
    """The block's part of the total discrepancy, summed over examples."""
    phi = at.phi(block)
    missed = {name: signals.z[name] - signals.y[name] if name in phi else signals.e[name] for name in block.regions}
    return total_discrepancy(jax.tree.map(widen, missed), at.kappas).sum()


def learn(
    at: Setting,
    block: Block,
    held: Held,
    passed: Passed,
    paths: Mapping[str, Along],
    signals: Signals,
    mirroring: block_noise.Mirroring | None,
) -> Weights:
    """Gradients by the names of `held`.

    Of a part of the batch, its share: those of all parts add up. `update.rescale` is left to the caller.
    """
    params: dict[str, Array] = {}
    for name, part in at.shares.of(block.regions).items():
        params |= _pull(at, part, held, passed, (at.kappas[name] / at.size) * signals.e[name])
    examples = len(signals.e[block.wiring.output])
    share = examples / at.size  # rules average over the examples that they see
    h = {**passed.h, block.wiring.output: signals.e[block.wiring.output]}
    links = connect(block.wiring, h, paths)
    averaged = {path: update / share for path, update in params.items()}
    synapses = to_flat(synapse_grads(links, at.by_level(block, held.synapses), signals, averaged), 'edges')
    if mirroring is not None and mirror_of(block.wiring) is not None:
        synapses = jax.lax.cond(
            mirroring.active,
            lambda: synapses | block_noise.mirror(at, block, held, passed, links, mirroring),
            lambda: synapses,
        )
    return {'params': params, 'synapses': jax.tree.map(lambda g: share * g, synapses)}


def _pull(at: Setting, part: Part, held: Held, passed: Passed, e: Array) -> dict[str, Array]:
    """Eq. 5 for one region. Its activities are known, so the forward part of this is dead code where h is linear."""
    own = {path: held.params[path] for path in part.params}
    z = {parent: passed.z[parent] for parent in part.parents}
    h, pull = jax.vjp(lambda p: part.run(p, held.stats, z, at.key)[0], own)
    (update,) = pull(e.astype(h.dtype))
    return update
