"""Sign symmetry (Liao, Leibo and Poggio, AAAI 2016; Xiao, Chen, Liao and Poggio, ICLR 2019)."""

from rlra_jax.learners import policies
from rlra_jax.learners.backward import asymmetric
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.types import Learner, Loss


def sign_symmetry(net: Net, *, magnitude: str = 'uniform', loss: Loss = softmax_cross_entropy) -> Learner:
    """Backward weights that share the signs of W, and nothing else.

    Args:
      net: what its model must be, and what is raised: see `asymmetric`.
      magnitude: 'uniform' (uSF), 'batchwise' (brSF) or 'fixed' (frSF); see `policies.sign`.
      loss: (outputs, batch) -> `[B]`.
    """
    policy = policies.sign(magnitude)
    return asymmetric(net, loss, lambda paths: dict.fromkeys(paths, policy))
