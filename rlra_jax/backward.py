"""Backward passes over weights of their own: what feedback alignment and its kin share.

Every linear operation h = f(x; W) keeps its forward pass and the gradient in W, but sends the error on to x over
backward weights B of W's shape. A `Policy` says where B comes from, one kernel at a time; `asymmetric` makes a learner
of a policy for each kernel. Site or not, activations pass the error by their derivative.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.dependence import dependence
from rlra_jax.diagnostics import kernel_alignment
from rlra_jax.frontend import variable_shapes
from rlra_jax.gradient import check_slopes, loss_gradient
from rlra_jax.inputs import checked_learner
from rlra_jax.paths import flatten, refill
from rlra_jax.types import Array, Batch, Feedback, Learner, LocalGrads, Variables

_LINEAR = (nn.Conv, nn.ConvTranspose, nn.Dense)
_COLLECTION = 'rlra'


class Policy(NamedTuple):
    """The backward weights of one kernel W; all arrays have W's shape."""

    init: Callable[[Array, Array], Array] | None  # (key, W) -> what is kept and trained, E; None: nothing is
    use: Callable[[Any, Array, Array], Array]  # (E, W, key) -> B for this step
    learn: Callable[[Array, Array, Array | None], Array] = lambda E, dW, estimate: jnp.zeros_like(E)  # -> dE
    mirrors: bool = False  # whether `learn` wants an estimate of W from noise
    decay: float = 0.0  # added, times the weights, to dW and to dE


def asymmetric(
    model: nn.Module,
    x: Array,
    choose: Callable[[Sequence[str]], Mapping[str, Policy]],
    *,
    mirror_every: int = 1,
    train_kwargs: Mapping[str, Any] | None = None,
) -> Learner:
    """A learner whose backward pass runs over weights of its own.

    Args:
      model: a linen module that maps images to logits. Its parameters of two or more axes must belong to Dense, Conv
        or ConvTranspose, and lie in no lifted jit, scan or vmap: others would be backprop in silence.
      x: an example batch `[B, ...]`, or its jax.ShapeDtypeStruct.
      choose: (paths, in forward order, of the kernels that an error passes on its way down) -> {path: Policy}. The
        kernels that only see the data have no use for one.
      mirror_every: policies that mirror get a new estimate every so many steps.
      train_kwargs: further keyword arguments of the model's call.

    Returns:
      A learner whose Feedback.synapses is {path: E} for the policies that keep one.

    Raises:
      ValueError: an activation without a derivative, an operation of another kind or out of reach, or a model in
        another framework than linen.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f'backward weights of their own need a flax.linen module; got {type(model).__name__}')
    check_slopes(model, x, train_kwargs)
    policies = dict(choose(_passed_kernels(model, x, train_kwargs)))
    mirrored = [path for path, policy in policies.items() if policy.mirrors]

    def init(key: Array, variables: Variables, batch: Batch) -> Feedback:
        del batch
        W = _kernels(variables)
        keys = dict(zip(policies, jax.random.split(key, len(policies)), strict=True))
        kept = {path: policy.init(keys[path], W[path]) for path, policy in policies.items() if policy.init}
        return Feedback(kept, {'step': jnp.zeros((), jnp.int32)})

    def backward_weights(E: Mapping[str, Array], W: Mapping[str, Array], key: Array) -> dict[str, Array]:
        keys = dict(zip(policies, jax.random.split(key, len(policies)), strict=True))
        return {path: policy.use(E.get(path), W[path], keys[path]) for path, policy in policies.items()}

    def update(variables: Variables, feedback: Feedback, batch: Batch, key: Array):
        _, key_use, key_mirror = jax.random.split(key, 3)
        E, W = feedback.synapses, _kernels(variables)
        B = backward_weights(E, W, key_use)
        grads, aux = loss_gradient(model, variables, batch, key, intercept=_backward_over(B), train_kwargs=train_kwargs)
        dW = flatten(grads)

        def learn(estimate: Mapping[str, Array]) -> dict[str, Array]:
            return {path: _learn(policies[path], E[path], dW[path], estimate.get(path)) for path in E}

        def mirror() -> dict[str, Array]:
            return learn(_estimate(model, variables, batch['image'], mirrored, key_mirror, train_kwargs))

        step = feedback.memory['step']
        dE = jax.lax.cond(step % mirror_every == 0, mirror, lambda: learn({})) if mirrored else learn({})
        dW |= {path: dW[path] + policy.decay * W[path] for path, policy in policies.items()}
        grads = LocalGrads(refill(grads, dW), dE)
        return grads, Feedback(E, {'step': step + 1}), aux

    def probe(variables: Variables, feedback: Feedback, batch: Batch, key: Array) -> dict[str, Array]:
        del batch
        W = _kernels(variables)
        return kernel_alignment(backward_weights(feedback.synapses, W, key), W)

    return checked_learner(Learner(init, update, probe=probe), model, train_kwargs)


def _kernels(variables: Variables) -> dict[str, Array]:
    """{path: parameter}; raises ValueError if parameters are boxed, as paths would then not be those of modules."""
    boxes = jax.tree.leaves(variables['params'], is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata))
    if any(isinstance(leaf, nn.meta.AxisMetadata) for leaf in boxes):
        raise ValueError(
            'parameters must be arrays, not boxes such as those of nn.with_partitioning; hand over '
            'flax.linen.meta.unbox(variables)'
        )
    return flatten(variables['params'])


def _learn(policy: Policy, E: Array, dW: Array, estimate: Array | None) -> Array:
    return (policy.learn(E, dW, estimate) + policy.decay * E).astype(E.dtype)


def _backward_over(B: Mapping[str, Array]) -> Callable[..., Any]:
    """An interceptor that gives each operation named in B the vector-Jacobian product of B in its input."""

    def intercept(apply, path, module, x):
        if path not in B:
            return apply(module.variables['params'], x)

        @jax.custom_vjp
        def operation(x, own, backward):
            return apply(own, x)

        def run(x, own, backward):
            return apply(own, x), (x, own, backward)

        def pull(saved, g):
            x, own, backward = saved
            _, pull_x = jax.vjp(lambda x: apply({**own, 'kernel': backward.astype(own['kernel'].dtype)}, x), x)
            _, pull_own = jax.vjp(lambda own: apply(own, x), own)
            return *pull_x(g), *pull_own(g), jnp.zeros_like(backward)

        operation.defvjp(run, pull)
        return operation(x, module.variables['params'], B[path])

    return _linear_interceptor(intercept)


def _estimate(
    model: nn.Module,
    variables: Variables,
    x: Array,
    paths: Sequence[str],
    key: Array,
    train_kwargs: Mapping[str, Any] | None,
) -> dict[str, Array]:
    """An unbiased estimate of each kernel: the correlation of white noise with the operation's response to it alone."""
    keys = dict(zip(paths, jax.random.split(key, len(paths)), strict=True))

    def intercept(apply, path, module, x):
        own = module.variables['params']
        if path in keys:
            silent = {name: jnp.zeros_like(value) for name, value in own.items() if name != 'kernel'}

            def respond(W, x):
                return apply({**silent, 'kernel': W}, x)

            W = own['kernel']
            noise = jax.random.normal(keys[path], x.shape, W.dtype)
            response, pull = jax.vjp(lambda W: respond(W, noise), W)
            _, pull_ones = jax.vjp(lambda W: respond(W, jnp.ones_like(noise)), W)
            (total,), (count,) = pull(response), pull_ones(jnp.ones_like(response))
            # count: the examples and positions that contribute to each entry; none to a tap that is always outside
            module.sow(_COLLECTION, 'kernel', total / jnp.maximum(count, 1))
        return apply(own, x)

    sown = _sown(model, variables, x, key, intercept, train_kwargs)
    return {path: estimates[-1] for path, estimates in sown.items() if estimates}


def _passed_kernels(model: nn.Module, x: Array, train_kwargs: Mapping[str, Any] | None) -> list[str]:
    """Paths, in forward order, of the kernels whose input depends on other parameters."""
    order: dict[str, None] = {}
    owners: list[str] = []  # of the inputs that come out

    def intercept(apply, path, module, x):
        order[path] = None
        module.sow(_COLLECTION, 'kernel', x)
        return apply(module.variables['params'], x)

    def run(params, rest, x, key):
        sown = _sown(model, {'params': params, **rest}, x, key, intercept, train_kwargs)
        owners[:] = [path for path in order for _ in sown.get(path, ())]
        return [entering for path in order for entering in sown.get(path, ())]

    variables = nn.meta.unbox(variable_shapes(model, x, train_kwargs))
    params, rest = variables['params'], {name: value for name, value in variables.items() if name != 'params'}
    uses = dependence(run, params, rest, x, jax.random.key(0))
    flat = flatten(params)
    strange = sorted(path for path, leaf in flat.items() if leaf.ndim > 1 and path not in owners)
    if strange:
        names = ', '.join(kind.__name__ for kind in _LINEAR)
        raise ValueError(
            f'no backward weights for {strange}: only kernels of {names} can have their own, and not in a lifted '
            'transform that hides them (jit, scan or vmap of flax); remat is fine'
        )
    return list(dict.fromkeys(path for path, used in zip(owners, uses, strict=True) if used))


def _sown(
    model: nn.Module,
    variables: Variables,
    x: Array,
    key: Array,
    intercept: Callable[..., Array],
    train_kwargs: Mapping[str, Any] | None,
) -> dict[str, tuple[Array, ...]]:
    """{kernel's path: what `intercept` sowed for it as 'kernel'}: sown values come out of nn.remat and nn.jit."""
    mutable = [_COLLECTION, *(name for name in variables if name != 'params')]
    with nn.intercept_methods(_linear_interceptor(intercept)):
        _, state = model.apply(variables, x, rngs=key, mutable=mutable, **(train_kwargs or {}))
    return flax.traverse_util.flatten_dict(dict(state).get(_COLLECTION, {}), sep='/')


def _linear_interceptor(handle: Callable[..., Array]) -> Callable[..., Any]:
    """An interceptor that hands (apply, path, module, x) of each linear operation to `handle`.

    `apply(own, x)` runs the operation with parameters {'kernel': ..., 'bias': ...} in place of the module's.
    """
    inside: list[bool] = []

    def intercept(next_fun, args, kwargs, context):
        module = context.module
        if inside or not isinstance(module, _LINEAR) or context.method_name != '__call__':
            return next_fun(*args, **kwargs)

        def apply(own, x):
            inside.append(True)
            try:
                return module.clone(parent=None).apply({'params': own}, x)
            finally:
                inside.pop()

        return handle(apply, '/'.join((*module.path, 'kernel')), module, *args, *kwargs.values())

    return intercept
