"""Target propagation (Le Cun 1986; Bengio 2014; as compared by Lee, Zhang, Fischer and Bengio, ECML 2015)."""

from rlra_jax.learners.inverses import inverse_learner
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.types import Learner, Loss


def target_prop(
    net: Net, *, step: float = 0.3, noise: float = 0.1, synapse_std: float = 0.05, loss: Loss = softmax_cross_entropy
) -> Learner:
    """Targets by learned inverses, y_i = g_i(y_{i+1}); arguments and errors: `inverses.inverse_learner`."""
    return inverse_learner(net, loss, difference=False, step=step, noise=noise, synapse_std=synapse_std)
