"""Kolen-Pollack learning (Kolen and Pollack 1994; as a backward pass of deep networks, Akrout et al. 2019)."""

from rlra_jax.learners import policies
from rlra_jax.learners.backward import asymmetric
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.types import Learner, Loss


def kolen_pollack(net: Net, *, decay: float = 1e-4, loss: Loss = softmax_cross_entropy) -> Learner:
    """Backward weights that take the updates of the forward ones, both with weight decay.

    Give the synapses the same optimizer as the parameters: the two only meet if they take the same steps.

    Args:
      net: what its model must be, and what is raised: see `asymmetric`.
      decay: added, times the weights, to the update of E and of the kernels that E stands for; 0 or more.
      loss: (outputs, batch) -> `[B]`.
    """
    policy = policies.kolen_pollack(decay)
    return asymmetric(net, loss, lambda paths: dict.fromkeys(paths, policy))
