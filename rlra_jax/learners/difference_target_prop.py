"""Difference target propagation (Lee, Zhang, Fischer and Bengio, ECML 2015)."""

from rlra_jax.learners.inverses import inverse_learner
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.types import Learner, Loss


def difference_target_prop(
    net: Net, *, step: float = 0.3, noise: float = 0.1, synapse_std: float = 0.05, loss: Loss = softmax_cross_entropy
) -> Learner:
    """Target propagation less the error of the inverse, y_i = z_i + g_i(y_{i+1}) - g_i(z_{i+1}).

    Arguments and errors: `inverses.inverse_learner`.
    """
    return inverse_learner(net, loss, difference=True, step=step, noise=noise, synapse_std=synapse_std)
