"""The mixed algorithms of the paper's Table 3: one policy below, another for the backward weights nearest the output.

`A+B` reads: A everywhere, B in the last layers. In backprop's case the error leaves those layers as backprop has it.
"""

from collections.abc import Mapping
from typing import Any

from rlra_jax.learners import policies
from rlra_jax.learners.backward import Policy, asymmetric
from rlra_jax.types import Array, Learner, Model
from rlra_jax.validate import require, require_count


def fa_bp(model: Model, x: Array, *, last: int = 1, train_kwargs: Mapping[str, Any] | None = None) -> Learner:
    """Feedback alignment, and backprop through the last layers (FA+BP); arguments: `_mixed`."""
    return _mixed(model, x, policies.fixed(), policies.transpose(), last, train_kwargs)


def ss_bp(
    model: Model,
    x: Array,
    *,
    last: int = 1,
    magnitude: str = 'uniform',
    train_kwargs: Mapping[str, Any] | None = None,
) -> Learner:
    """Sign symmetry, and backprop through the last layers (SS+BP; Xiao et al. 2019); arguments: `_mixed`."""
    return _mixed(model, x, policies.sign(magnitude), policies.transpose(), last, train_kwargs)


def fa_wm(model: Model, x: Array, *, last: int = 1, train_kwargs: Mapping[str, Any] | None = None) -> Learner:
    """Feedback alignment, and weight mirrors in the last layers (FA+WM); arguments: `_mixed`."""
    return _mixed(model, x, policies.fixed(), policies.weight_mirror(), last, train_kwargs)


def _mixed(
    model: Model, x: Array, below: Policy, above: Policy, last: int, train_kwargs: Mapping[str, Any] | None
) -> Learner:
    """One policy up to the last so many kernels, another for those.

    Args:
      model: what it must be, and what else is raised: see `asymmetric`.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      below: the policy of the lower kernels.
      above: that of the last ones.
      last: how many of these there are, the readout included; at least 1.
      train_kwargs: further keyword arguments of the model's call.

    Raises:
      ValueError: `last` leaves no kernel for the lower policy.
    """
    require_count('last', last)

    def choose(paths):
        require(last < len(paths), 'last', f'below {len(paths)}, the kernels that an error passes', last)
        return {path: below if path in paths[:-last] else above for path in paths}

    return asymmetric(model, x, choose, train_kwargs=train_kwargs)
