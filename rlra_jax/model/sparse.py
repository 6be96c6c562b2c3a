"""Matrix products of which only the largest part is computed."""

import jax.numpy as jnp
from jax import lax
from jax.extend import core

from rlra_jax.types import Array


def largest(
    eqn: core.JaxprEqn, operands: list[Array], place: int, *, share: float, across: tuple[str, ...] = ()
) -> list[Array] | None:
    """The result of a sum over channels without those in which a signal is small; None of any other operation.

    Args:
      eqn: `dot_general` or a convolution of two operands.
      operands: the signal and what it meets.
      place: which of them the signal is.
      share: of the channels to keep: those of the largest sum of magnitudes, at least one.
      across: inside shard_map: the axes over which the batch is split.
    """
    axes = _summed(eqn, place)
    if axes is None:
        return None
    signal, axis = operands[place], axes[place]
    size = jnp.abs(signal).sum([other for other in range(signal.ndim) if other != axis])
    _, kept = lax.top_k(lax.psum(size, across), max(1, round(share * len(size))))
    fewer = (jnp.take(x, kept, own, mode='clip') for x, own in zip(operands, axes, strict=True))
    return [eqn.primitive.bind(*fewer, **eqn.params)]


def _summed(eqn: core.JaxprEqn, place: int) -> tuple[int, int] | None:
    """The axis of each operand that is summed over and stands for channels; of several the signal's last.

    So of attention's heads the same channels send, and of a convolution over patches all taps of a channel.
    """
    if eqn.primitive.name == 'dot_general':
        (left, right), (batch, _) = eqn.params['dimension_numbers']
        return None if batch or not left else max(zip(left, right, strict=True), key=lambda axes: axes[place])
    if eqn.primitive.name == 'conv_general_dilated' and place == 0:
        numbers, groups = eqn.params['dimension_numbers'], eqn.params['feature_group_count']
        whole = groups == eqn.params['batch_group_count'] == 1
        return (numbers.lhs_spec[1], numbers.rhs_spec[1]) if whole else None
    return None
