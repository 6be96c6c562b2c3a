"""Backpropagation of the mean loss: the yardstick."""

from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.checked import make_learner
from rlra_jax.model.gradient import check_slopes, loss_gradient
from rlra_jax.model.net import Net
from rlra_jax.types import Array, Batch, Learner, Loss, State, Weights, variables_of


def backprop(net: Net, *, loss: Loss = softmax_cross_entropy) -> Learner:
    """The gradient by `jax.grad`; Sites are plain activations, so the model needs none.

    Args:
      net: what `regions` returned.
      loss: (outputs, batch) -> `[B]`.

    Raises:
      ValueError: an activation without a derivative.
    """
    check_slopes(net, loops=True)

    def update(weights: Weights, state: State, batch: Batch, key: Array):
        grads, collections, aux = loss_gradient(net, loss, variables_of(weights, state), batch, key)
        return {'params': grads, 'synapses': ()}, State(collections, state.memory), aux

    return make_learner(net, loss, lambda key, variables: ((), {}), update)
