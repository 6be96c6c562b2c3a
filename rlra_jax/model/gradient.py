"""Gradients of a batch: of the loss by one backward pass, and region by region at given errors."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rlra_jax.loss import loss_and_error, widen
from rlra_jax.model.axes import with_axes
from rlra_jax.model.capture import forward
from rlra_jax.model.dependence import dependence
from rlra_jax.model.net import Net, require_net, require_no_loops
from rlra_jax.types import Array, Aux, Batch, Loss, Outputs, PyTree, Variables


def loss_gradient(
    net: Net, loss: Loss, variables: Variables, batch: Batch, key: Array
) -> tuple[PyTree, Variables, Aux]:
    """(the gradient in the tree of variables['params'], the other collections after the pass, what else is known).

    Args:
      net: the model and its call.
      loss: (outputs, batch) -> `[B]`.
      variables: the model's, {'params': ..., ...}.
      batch: what the call and the loss read.
      key: for dropout and every other random stream of the model.
    """
    rest = {name: value for name, value in variables.items() if name != 'params'}

    def run(params: PyTree) -> tuple[Outputs, Variables]:
        return net.apply({'params': params, **rest}, batch, key)

    outputs, pull, collections = jax.vjp(run, variables['params'], has_aux=True)
    mean, error = loss_and_error(loss, outputs, batch)
    (grads,) = pull(jax.tree.map(lambda e, out: (e / len(e)).astype(out.dtype), error, outputs))
    return grads, collections, Aux(mean, jax.tree.map(widen, outputs), jnp.zeros_like(mean))


def local_gradient(pull: Callable[[Mapping[str, Array]], PyTree], errors: Mapping[str, Array]) -> PyTree:
    """Eq. 5 at errors of any learner's making, averaged over the batch.

    Args:
      pull: the cut pass's vector-Jacobian product, from `capture.cut_vjp`.
      errors: region -> error per example `[B, ...]`.
    """
    return pull({name: e / len(e) for name, e in errors.items()})


def check_slopes(net: Net, *, loops: bool = False) -> None:
    """Raises ValueError, naming the Sites, if an activation has no derivative to learn by, as sign has not.

    And where net is none, or has regions in loops and the learner cannot train those.

    Args:
      net: what `regions` returned; a model without Sites passes unseen.
      loops: whether the learner trains regions in loops that JAX traces once.
    """
    require_net(net)
    if not loops:
        require_no_loops(net, 'this learner')
    flat: list[str] = []

    def run(variables: Variables, key: Array, batch: Batch) -> None:
        seen = forward(net, variables, batch, rngs=key)
        for name, phi in seen.phi.items():
            z, pull = jax.vjp(phi, seen.h[name])
            if not any(dependence(pull, z)):
                flat.append(name)

    with_axes(jax.eval_shape, run, net.variable_shapes(), jax.random.key(0), dict(net.example))
    if flat:
        raise ValueError(
            f'this learner needs the derivative of every activation, but that of Sites {flat} is zero everywhere, and '
            'only the layers above them would learn; rec_lra trains such units'
        )
