"""Backward passes over weights of their own: what feedback alignment and its kin share.

Every operation keeps its forward pass and its gradient, but sends the error on over backward weights B of the shape of
its own, W. A `Policy` says where B comes from, one parameter at a time; `asymmetric` makes a learner of a policy for
each. Site or not, activations pass the error by their derivative. Vectors, such as the scales of a normalisation, pass
it as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.diagnostics import kernel_alignment
from rlra_jax.loss import loss_and_error, widen
from rlra_jax.model.backward_pass import BackwardPass, Meeting
from rlra_jax.model.checked import make_learner
from rlra_jax.model.dependence import dependence
from rlra_jax.model.gradient import check_slopes
from rlra_jax.model.net import Net
from rlra_jax.paths import flatten, refill
from rlra_jax.types import Array, Aux, Batch, Learner, Loss, Outputs, State, Variables, Weights, variables_of
from rlra_jax.validate import require

_BILINEAR = {'conv_general_dilated', 'dot_general', 'mul'}


class Policy(NamedTuple):
    """The backward weights of one kernel W; all arrays have W's shape."""

    init: Callable[[Array, Array], Array] | None  # (key, W) -> what is kept and trained, E; None: nothing is
    use: Callable[[Any, Array, Array], Array]  # (E, W, key) -> B for this step
    learn: Callable[[Array, Array, Array | None], Array] = lambda E, dW, estimate: jnp.zeros_like(E)  # -> dE
    mirrors: bool = False  # whether `learn` wants an estimate of W from noise
    decay: float = 0.0  # added, times the weights, to dW and to dE


def asymmetric(
    net: Net, loss: Loss, choose: Callable[[Sequence[str]], Mapping[str, Policy]], *, mirror_every: int = 1
) -> Learner:
    """A learner whose backward pass runs over weights of its own.

    Args:
      net: what `regions` returned; a model of any operations.
      loss: (outputs, batch) -> `[B]`.
      choose: (paths, in forward order, of the parameters of two or more axes that an error passes on its way down) ->
        {path: Policy}. The kernels that only see the data have no use for one.
      mirror_every: policies that mirror get a new estimate every so many steps.

    Returns:
      A learner whose synapses are {path: E} for the policies that keep one.

    Raises:
      ValueError: an activation without a derivative; or a policy mirrors a parameter that is complex, or that no
        product reads alone.
    """
    check_slopes(net)
    policies = dict(choose(_passed_kernels(net)))
    mirrored = [path for path, policy in policies.items() if policy.mirrors]
    params = flatten(net.variable_shapes()['params'])
    complex_ = [path for path in mirrored if jnp.issubdtype(params[path].dtype, jnp.complexfloating)]
    require(not complex_, 'what a weight mirror learns from noise', 'real, or two real ones of each', complex_)

    def draw(key: Array, variables: Variables):
        W = flatten(variables['params'])
        keys = dict(zip(policies, jax.random.split(key, len(policies)), strict=True))
        kept = {path: policy.init(keys[path], W[path]) for path, policy in policies.items() if policy.init}
        return kept, {'step': jnp.zeros((), jnp.int32)}

    def backward_weights(E: Mapping[str, Array], W: Mapping[str, Array], key: Array) -> dict[str, Array]:
        keys = dict(zip(policies, jax.random.split(key, len(policies)), strict=True))
        return {path: policy.use(E.get(path), W[path], keys[path]) for path, policy in policies.items()}

    def update(weights: Weights, state: State, batch: Batch, key: Array):
        _, key_use, key_mirror = jax.random.split(key, 3)
        E, W = weights['synapses'], flatten(weights['params'])
        B = backward_weights(E, W, key_use)
        way = _forward(net, variables_of(weights, state), batch, key)
        outputs, collections = way.others
        outputs = jax.tree.map(widen, outputs)
        mean, error = loss_and_error(loss, outputs, batch)
        together = _joined(jax.tree.map(lambda e: e / len(e), error))
        over = {**W, **{path: own.astype(W[path].dtype) for path, own in B.items()}}
        dW = way.gradient(way.weights(over), together.astype(way.out.dtype))

        def learn(estimates: Mapping[str, Array]) -> dict[str, Array]:
            return {path: _learn(policies[path], E[path], dW[path], estimates.get(path)) for path in E}

        def mirror() -> dict[str, Array]:
            return learn(_estimates(way, W, E, mirrored, key_mirror))

        step = state.memory['step']
        dE = jax.lax.cond(step % mirror_every == 0, mirror, lambda: learn({})) if mirrored else learn({})
        dW |= {path: dW[path] + policy.decay * W[path].conj() for path, policy in policies.items()}
        grads = {'params': refill(weights['params'], dW), 'synapses': dE}
        return grads, State(collections, {'step': step + 1}), Aux(mean, outputs, jnp.zeros_like(mean))

    def probe(weights: Weights, state: State, batch: Batch, key: Array) -> dict[str, Array]:
        del state, batch
        W = flatten(weights['params'])
        return kernel_alignment(backward_weights(weights['synapses'], W, key), W)

    return make_learner(net, loss, draw, update, probe=probe)


def _learn(policy: Policy, E: Array, dW: Array, estimate: Array | None) -> Array:
    return (policy.learn(E, dW, estimate) + policy.decay * E.conj()).astype(E.dtype)  # as JAX's gradients are


def _forward(net: Net, variables: Variables, batch: Batch, key: Array) -> BackwardPass:
    """The way back from the outputs to {path: parameter}; its `others` are these and the collections after the pass."""
    params = variables['params']
    rest = {name: value for name, value in variables.items() if name != 'params'}

    def run(flat: Mapping[str, Array], batch: Batch, fixed: tuple[Variables, Array]) -> tuple[Array, Any]:
        rest, key = fixed
        outputs, collections = net.apply({'params': refill(params, flat), **rest}, batch, key)
        return _joined(outputs), (outputs, collections)

    return BackwardPass(run, flatten(params), dict(batch), (rest, key))


def _joined(outputs: Outputs) -> Array:
    """The outputs as the one array that a way back starts from: several side by side, `[B, numbers]`."""
    if not isinstance(outputs, Mapping):
        return outputs
    return jnp.concatenate([value.reshape(len(value), -1) for value in jax.tree.leaves(outputs)], axis=1)


def _passed_kernels(net: Net) -> list[str]:
    """Paths, in forward order, of the parameters of two or more axes that an error passes on its way to others."""
    variables = net.variable_shapes()
    W, order = flatten(variables['params']), list[str]()

    def back(B: Mapping[str, Array], variables: Variables, batch: Batch, key: Array) -> list[Array]:
        way = _forward(net, variables, batch, key)
        names = sorted(B)  # the order of a dictionary's leaves
        order[:] = [names[number] for number in way.order]
        return list(way.gradient(way.weights(B), way.out).values())

    uses = dependence(back, W, variables, dict(net.example), jax.random.key(0))
    passed = {sorted(W)[number] for used in uses for number in used}
    return [path for path in order if path in passed and W[path].ndim > 1]


def _estimates(
    way: BackwardPass, W: Mapping[str, Array], E: Mapping[str, Array], paths: Sequence[str], key: Array
) -> dict[str, Array]:
    """Unbiased estimates of parameters: the correlation of white noise with the response of products to it alone.

    Raises:
      ValueError: what is made of a parameter meets activities in no product.
    """
    own, moved = way.weights(W), _made_of(way, W, paths)
    keys = jax.random.split(key, len(own))
    wanted = sorted({number for numbers in moved.values() for number in numbers})
    found = {i: estimate for i in wanted if (estimate := _estimate(way.meetings, i, own[i], keys[i])) is not None}
    lost = [path for path, numbers in moved.items() if found.keys().isdisjoint(numbers)]
    if lost:
        raise ValueError(
            'a weight mirror needs each of its weights in a product of its own, a matrix product or a convolution, '
            f'outside loops; {lost} are in none'
        )
    kept = {path: E[path].astype(W[path].dtype) for path in paths}
    weights, pull = jax.vjp(lambda kept: way.weights({**W, **kept}), kept)
    lack = [value - found[i] if i in found else jnp.zeros_like(value) for i, value in enumerate(weights)]
    # Where weights are a parameter in another shape, this is the estimate in its own: the mean over those made of it.
    (lacks,) = pull(lack)
    (uses,) = pull([(jnp.ones_like if i in found else jnp.zeros_like)(value) for i, value in enumerate(weights)])
    most = {path: len(found.keys() & set(numbers)) for path, numbers in moved.items()}
    return {path: E[path] - lacks[path] / jnp.clip(uses[path], 1, most[path]) for path in paths}


def _made_of(way: BackwardPass, W: Mapping[str, Array], paths: Sequence[str]) -> dict[str, list[int]]:
    """{path: numbers of the weights that are made of it}."""
    uses = dependence(way.weights, dict(W))
    names = sorted(W)
    return {path: [i for i, used in enumerate(uses) if names.index(path) in used] for path in paths}


def _estimate(meetings: Sequence[Meeting], number: int, W: Array, key: Array) -> Array | None:
    """Of one weight, from all products that read it."""
    own = [m for m in meetings if m.weight == number and m.eqn.primitive.name in _BILINEAR]
    total, count = jnp.zeros_like(W), jnp.zeros_like(W)
    for meeting, own_key in zip(own, jax.random.split(key, max(len(own), 1)), strict=False):
        other: Any = meeting.eqn.invars[1 - meeting.operand].aval
        noise = jax.random.normal(own_key, other.shape, W.dtype)
        response, pull = jax.vjp(meeting.apply(noise), W)
        _, pull_ones = jax.vjp(meeting.apply(jnp.ones_like(noise)), W)
        total += pull(response)[0]
        count += pull_ones(jnp.ones_like(response))[0]
    # count: the examples and positions that contribute to each entry; none to a tap that is always outside
    return total / jnp.maximum(count, 1) if own else None
