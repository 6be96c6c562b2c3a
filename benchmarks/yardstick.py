"""Backprop through the very blocks that rec-LRA streams: what `methods.py` and `depth.py` measure it against."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from rlra_jax.parallel import forward_pass
from rlra_jax.parallel.blocks import over
from rlra_jax.parallel.forward_pass import Held
from rlra_jax.parallel.packing import Packing
from rlra_jax.parallel.setting import setting
from rlra_jax.recursion.options import Options


def backprop_update(packing: Packing, rate: float, *, remat: bool) -> Callable[..., Any]:
    """(params, batch, key) -> (params after a step of SGD, loss), scanned over runs of equal blocks.

    Args:
      packing: the model as blocks; params are the `Held.params` of its `pack_held`.
      rate: of SGD.
      remat: whether a block keeps only what enters it, and runs again on the way back.
    """

    def update(params: Any, batch: Any, key: Any) -> Any:
        at = setting(packing.parts_for(batch[packing.input], key), Options(), packing.wiring, key, len(batch['label']))

        def loss_fn(params: Any) -> Any:
            flow = forward_pass.bottom(at, batch[packing.input])
            for run, stacked in zip(packing.runs, params, strict=True):

                def body(flow: Any, own: Any, block: Any = run[0]) -> Any:
                    return forward_pass.leaving(block, forward_pass.run(at, block, Held(own, {}, {}), flow))

                flow = over(run, jax.checkpoint(body) if remat else body, flow, stacked)
            return optax.softmax_cross_entropy_with_integer_labels(flow.z, batch['label']).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

    return update
