"""LRA-E, error-driven local representation alignment (Ororbia and Mali, AAAI 2019): rec-LRA without the recursion."""

from collections.abc import Collection

from rlra_jax.learners.rec_lra import update_fn
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.recursion.options import Options
from rlra_jax.rules import KolenPollack
from rlra_jax.types import Learner, Loss
from rlra_jax.wiring.wirings import wire_chain

_DEFAULTS = Options()


def lra_e(
    net: Net,
    options: Options = _DEFAULTS,
    *,
    loss: Loss = softmax_cross_entropy,
    synapse_std: float = 0.05,
    allow: Collection[str] = (),
) -> Learner:
    """Every region hears from the one above it, over synapses that learn as the forward ones do.

    Arguments and errors: as of `update_fn`, with the wiring chain and the rule `KolenPollack`.
    """
    wiring = wire_chain(net, rule=KolenPollack())
    return update_fn(net, wiring, options, loss=loss, synapse_std=synapse_std, allow=allow)
