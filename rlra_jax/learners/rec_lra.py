"""Recursive local representation alignment (Ororbia, Mali, Kifer and Giles, AAAI 2023), as a Learner."""

from collections.abc import Callable, Collection

from rlra_jax.diagnostics import displacements, edge_alignment, kernel_alignment
from rlra_jax.edges import Wiring
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.checked import make_learner
from rlra_jax.model.net import Net, require_net
from rlra_jax.paths import flatten
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.start import check_start, draw_synapses, warn_of_rounding
from rlra_jax.recursion.update import Learn, learn_here, look, make_update, recur
from rlra_jax.types import Array, Batch, Learner, Loss, State, Variables, Weights
from rlra_jax.validate import require, require_number, require_paths
from rlra_jax.wiring.levels import settled
from rlra_jax.wiring.wirings import wire_blocks

_DEFAULTS = Options()


def update_fn(
    net: Net,
    wiring: Wiring | Callable[[Net], Wiring] = wire_blocks,
    options: Options = _DEFAULTS,
    *,
    loss: Loss = softmax_cross_entropy,
    synapse_std: float = 0.05,
    allow: Collection[str] = (),
) -> Learner:
    """rec-LRA of a model, where `jax.value_and_grad` stood.

        update = update_fn(net, wire_blocks(net), Options(beta=0.1))
        weights, state = update.init(key)
        grads, state, aux = update(weights, state, batch, key)

    Args:
      net: what `regions` returned.
      wiring: the error pathways, or a function of the net that makes them, such as `wire_reverse`.
      options: hyper-parameters.
      loss: (outputs, batch) -> `[B]`, any function of the outputs; cross-entropy with batch['label'] by default.
      synapse_std: standard deviation of the initial straight synapses.
      allow: parameters that several regions are meant to train; see `check_cut`.

    Returns:
      A Learner: init(key, variables=None) -> (weights, state), and update, pure: it jits, vmaps, scans and shards.
      Its weights are {'params': the model's, 'synapses': (level 1, level 2, ...)}, each level {synapse: E}.

    Raises:
      ValueError: `wiring` is not a Wiring and makes none, or an argument is out of range. `init` raises where the
        model is not cut, or the wiring does not fit it. `update` raises where weights, state, batch or key do not fit,
        or where an option names an unknown region.
    """
    return wired(net, wiring, options, loss, synapse_std, allow, learn_here)


def wired(
    net: Net,
    wiring: Wiring | Callable[[Net], Wiring],
    options: Options,
    loss: Loss,
    synapse_std: float,
    allow: Collection[str],
    learn: Learn,
) -> Learner:
    """`update_fn` with another way to get from the cut pass to the gradients."""
    require_net(net)
    require(isinstance(options, Options), 'options', 'an Options, such as Options(beta=0.1)', options)
    require_number('synapse_std', synapse_std, 0)
    require_paths('allow', allow)
    pathways = settled(wiring, net)

    def draw(key: Array, variables: Variables):
        return draw_synapses(key, pathways, net.regions, variables, synapse_std)

    def probe(weights: Weights, state: State, batch: Batch, key: Array) -> dict[str, Array]:
        _, _, context = look(net, pathways, options, loss, weights, state, batch, key)
        signals = recur(context)
        moved = displacements(
            {edge.target: (signals.z[edge.target], signals.y[edge.target]) for edge in pathways.edges}
        )
        levels = zip(pathways.synapses, weights['synapses'], strict=True)
        along = [E[name] for synapses, E in levels for name, edges in synapses.items() if edges[0].kind.follows]
        W = flatten(weights['params'])
        moved |= {name: value for E in along for name, value in kernel_alignment(E, W).items()}
        told = edge_alignment(net, pathways, context.variables, batch, signals.e, signals.d, own=signals.own, key=key)
        return moved | told

    return make_learner(
        net,
        loss,
        draw,
        make_update(net, pathways, options, loss, learn),
        check=lambda: warn_of_rounding(check_start(net, pathways, synapse_std, allow)),
        probe=probe,
    )
