"""The mixed algorithms of the paper's Table 3: one policy below, another for the backward weights nearest the output.

`A+B` reads: A everywhere, B in the last layers. In backprop's case the error leaves those layers as backprop has it.
"""

from rlra_jax.learners import policies
from rlra_jax.learners.backward import Policy, asymmetric
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.types import Learner, Loss
from rlra_jax.validate import require, require_count


def fa_bp(net: Net, *, last: int = 1, loss: Loss = softmax_cross_entropy) -> Learner:
    """Feedback alignment; backprop through the last so many kernels, 1 or more, the readout's among them (FA+BP)."""
    return _mixed(net, loss, policies.fixed(), policies.transpose(), last)


def ss_bp(net: Net, *, last: int = 1, magnitude: str = 'uniform', loss: Loss = softmax_cross_entropy) -> Learner:
    """Sign symmetry; backprop through the last so many kernels, as in `fa_bp` (SS+BP; Xiao et al. 2019)."""
    return _mixed(net, loss, policies.sign(magnitude), policies.transpose(), last)


def fa_wm(net: Net, *, last: int = 1, loss: Loss = softmax_cross_entropy) -> Learner:
    """Feedback alignment; weight mirrors for the last so many kernels, as in `fa_bp` (FA+WM)."""
    return _mixed(net, loss, policies.fixed(), policies.weight_mirror(), last)


def _mixed(net: Net, loss: Loss, below: Policy, above: Policy, last: int) -> Learner:
    """One policy up to the last so many kernels, another for those.

    Args:
      net: what its model must be, and what else is raised: see `asymmetric`.
      loss: (outputs, batch) -> `[B]`.
      below: the policy of the lower kernels.
      above: that of the last ones.
      last: how many of these there are, the readout included; at least 1.

    Raises:
      ValueError: `last` leaves no kernel for the lower policy, or there is only one kernel to share.
    """
    require_count('last', last)

    def choose(paths):
        require(len(paths) > 1, 'the kernels that an error passes', 'two or more for a mixture', paths)
        require(last < len(paths), 'last', f'below {len(paths)}, the kernels that an error passes', last)
        return {path: below if path in paths[:-last] else above for path in paths}

    return asymmetric(net, loss, choose)
