"""Checks that an optimizer can be applied block by block."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from rlra_jax.dependence import Trace
from rlra_jax.parallel.dissect import Flat


def check_blockwise(
    optimizer: optax.GradientTransformation, leaves: Flat, blocks: Sequence[Sequence[str]], what: str
) -> None:
    """Traces which gradients each update depends on.

    Args:
      optimizer: any optax transformation.
      leaves: {name: array or jax.ShapeDtypeStruct} of the whole model; or (), as an identity synapse is.
      blocks: the names of each block; one of several equal blocks is enough.
      what: what the optimizer is for, to name it in the error.

    Raises:
      ValueError: an update depends on gradients of other blocks, as with clipping by the global norm.
    """
    names = sorted(name for name, leaf in leaves.items() if jax.tree.leaves(leaf))

    def update(grads: Mapping[str, Any], params: Mapping[str, Any]):
        return optimizer.update(grads, optimizer.init(params), params)[0]

    flat = {name: leaves[name] for name in names}
    trace = Trace(jax.make_jaxpr(update)(flat, flat).jaxpr)
    for block in blocks:
        for name in (name for name in block if name in flat):
            needs = [names[i] for i in trace.part([names.index(name)])[1] if i < len(names)]
            foreign = [other for other in needs if other not in block]
            if foreign:
                more = f' and {len(foreign) - 3} more' if foreign[3:] else ''
                raise ValueError(
                    f'the optimizer of the {what} must update each block from its own gradients, but its update of '
                    f'{name!r} also needs those of {foreign[:3]}{more}, as clipping by a global norm does'
                )
