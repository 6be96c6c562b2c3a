"""Weight mirrors (Akrout, Wilson, Humphreys, Lillicrap and Tweed, NeurIPS 2019)."""

from rlra_jax.learners import policies
from rlra_jax.learners.backward import asymmetric
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.types import Learner, Loss
from rlra_jax.validate import require_count


def weight_mirror(net: Net, *, mirror_every: int = 1, loss: Loss = softmax_cross_entropy) -> Learner:
    """Backward weights that learn W from noise, in mirror phases between the engaged ones.

    An engaged phase is one batch; then every operation gets white noise in place of its input, and the correlation
    with its response moves E, while W stands still.

    Args:
      net: what its model must be, and what is raised: see `asymmetric`.
      mirror_every: engaged phases to one mirror phase, at least 1.
      loss: (outputs, batch) -> `[B]`.
    """
    require_count('mirror_every', mirror_every)
    policy = policies.weight_mirror()
    return asymmetric(net, loss, lambda paths: dict.fromkeys(paths, policy), mirror_every=mirror_every)
