"""Feedback alignment (Lillicrap, Cownden, Tweed and Akerman, Nature Communications 2016)."""

from rlra_jax.learners import policies
from rlra_jax.learners.backward import asymmetric
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.types import Learner, Loss


def feedback_alignment(net: Net, *, loss: Loss = softmax_cross_entropy) -> Learner:
    """Backprop over fixed random weights in place of W^T; what the model must be, and what is raised: `asymmetric`."""
    return asymmetric(net, loss, lambda paths: dict.fromkeys(paths, policies.fixed()))
