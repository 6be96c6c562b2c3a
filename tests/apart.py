"""Learners as tests look at them: of a model on images, with variables and synapses apart."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import rlra_jax
from rlra_jax import parallel
from rlra_jax.experiment import names
from rlra_jax.learners import backward
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model import capture, gradient, programs
from rlra_jax.model.call import check_call
from rlra_jax.model.net import Net, like
from rlra_jax.parallel import cost, stage, stream
from rlra_jax.parallel.dissect import dissect as parts_of
from rlra_jax.parallel.packing import Packing
from rlra_jax.recursion.options import Options
from rlra_jax.types import State


class Feedback(NamedTuple):
    """What a learner keeps besides the model's variables."""

    synapses: Any
    memory: Any


class Grads(NamedTuple):
    """Gradients of both."""

    params: Any
    synapses: Any


class Known(NamedTuple):
    """What an update knows besides."""

    loss: Any
    error: Any  # share of examples classified wrongly
    logits: Any
    variables: Any  # the collections other than params after the step
    discrepancy: Any


class Apart(NamedTuple):
    """A learner, and how it is seen."""

    learner: Any
    init: Any  # (key, variables, batch) -> Feedback
    update: Any  # (variables, feedback, batch, key) -> (Grads, Feedback, Known)
    predict: Any
    probe: Any  # (variables, feedback, batch, key)


def example(x):
    return {'image': jax.ShapeDtypeStruct(x.shape, x.dtype), 'label': jax.ShapeDtypeStruct(x.shape[:1], jnp.int32)}


def bound(model, x, train_kwargs=None):
    """A Net whose regions nobody has asked for."""
    kwargs = dict(train_kwargs or {})

    def call(module, batch):
        return module(batch['image'], **kwargs)

    check_call(call)
    return Net(model, call, like(example(x)))


def sites(model, x, *, train_kwargs=None):
    """A model on images x `[B, ...]` as a Net, called with the arguments given."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return _sites(model, shape, tuple((train_kwargs or {}).items()), jax.config.jax_enable_x64)


def _remembered(function):
    """Nets of linen models that have a hash are traced once, in the same mode of JAX."""
    remembered = functools.lru_cache(maxsize=100)(function)

    def call(model, *args):
        try:
            hash(model)
        except TypeError:
            return function(model, *args)
        return (remembered if isinstance(model, nn.Module) else function)(model, *args)

    return call


@_remembered
def _sites(model, x, kwargs, wide):
    del wide
    return rlra_jax.regions(model, example(x), call=lambda module, batch: module(batch['image'], **dict(kwargs)))


def state_of(variables, feedback):
    """(weights, state) of what is apart."""
    rest = {name: tree for name, tree in variables.items() if name != 'params'}
    return {'params': variables['params'], 'synapses': feedback.synapses}, State(rest, feedback.memory)


def apart(learner):
    """A learner with variables and synapses apart."""

    def init(key, variables, batch=None):
        weights, state = learner.init(key, variables)
        return Feedback(weights['synapses'], state.memory)

    def update(variables, feedback, batch, key):
        grads, state, aux = learner.update(*state_of(variables, feedback), batch, key)
        error = (aux.outputs.argmax(axis=-1) != batch['label']).mean()
        known = Known(aux.loss, error, aux.outputs, state.collections, aux.discrepancy)
        return Grads(**grads), Feedback(feedback.synapses, state.memory), known

    def probe(variables, feedback, batch, key):
        return learner.probe(*state_of(variables, feedback), batch, key)

    def predict(variables, x):
        return learner.predict(variables, {'image': x})

    return Apart(learner, init, update, learner.predict and predict, learner.probe and probe)


def make_learner(name, model, x, *, train_kwargs=None, **options):
    """A learner from options as in configs."""
    options = names.named({'name': name, **options})
    return apart(rlra_jax.LEARNERS[options.pop('name')](sites(model, x, train_kwargs=train_kwargs), **options))


def asymmetric(model, x, choose):
    """A learner with a policy for each kernel."""
    return apart(backward.asymmetric(sites(model, x), softmax_cross_entropy, choose))


rec_lra = functools.partial(make_learner, 'rec_lra')


def update_fn(model, wiring, *, train_kwargs=None, **options):
    """rec-LRA's update, of batches of any size."""
    made = Options(**options)

    def update(variables, feedback, batch, key):
        net = sites(model, batch['image'], train_kwargs=train_kwargs)
        return apart(rlra_jax.update_fn(net, wiring, made)).update(variables, feedback, batch, key)

    return update


def init_feedback(key, model, wiring, variables, x, *, std=0.05, train_kwargs=None, allow=()):
    """The synapses that rec-LRA starts with."""
    net = sites(model, x, train_kwargs=train_kwargs)
    return apart(rlra_jax.update_fn(net, wiring, synapse_std=std, allow=allow)).init(key, variables)


def forward(model, variables, x, *, train_kwargs=None, **kwargs):
    return capture.forward(bound(model, x, train_kwargs), variables, {'image': x}, **kwargs)


def cut_vjp(model, variables, x, *, train_kwargs=None, **kwargs):
    return capture.cut_vjp(bound(model, x, train_kwargs), variables, {'image': x}, **kwargs)


def cut_model(model, variables, x, key, *, train_kwargs=None):
    return programs.cut_model(bound(model, x, train_kwargs), variables, {'image': x}, key)


def variable_shapes(model, x, train_kwargs=None):
    return bound(model, x, train_kwargs).variable_shapes()


def check_cut(model, x, *, train_kwargs=None, variables=None, allow=()):
    return rlra_jax.check_cut(sites(model, x, train_kwargs=train_kwargs), allow=allow)


def find_activations(model, x, *, train_kwargs=None):
    return rlra_jax.find_activations(bound(model, x, train_kwargs))


def summary(model, wiring, x, *, train_kwargs=None, mesh=None):
    return rlra_jax.summary(sites(model, x, train_kwargs=train_kwargs), wiring, mesh=mesh)


def diagnose(model, learner, variables, feedback, batch, key, *, train_kwargs=None, allow=()):
    net = sites(model, batch['image'], train_kwargs=train_kwargs)
    return rlra_jax.diagnose(net, learner.learner, *state_of(variables, feedback), batch, key, allow=allow)


def loss_gradient(model, variables, batch, key, *, train_kwargs=None):
    """(the gradient, Known)."""
    net = bound(model, batch['image'], train_kwargs)
    grads, collections, aux = gradient.loss_gradient(net, softmax_cross_entropy, variables, batch, key)
    error = (aux.outputs.argmax(axis=-1) != batch['label']).mean()
    return grads, Known(aux.loss, error, aux.outputs, collections, aux.discrepancy)


def optimizers(params, synapses=None, paths=None):
    """One optimizer of two or three."""
    return rlra_jax.optimizers(params) if synapses is None else rlra_jax.optimizers(params, synapses, paths)


class Step(NamedTuple):
    """A train step that starts from variables."""

    init: Any  # (key, variables, batch)
    update: Any


def make_train_step(learner, *optimizer):
    """A train step of an Apart, with an optimizer for each side."""
    step = rlra_jax.make_train_step(getattr(learner, 'learner', learner), optimizers(*optimizer))
    return Step(lambda key, variables, batch=None: step.init(key, variables), step.update)


def feedback_of(state):
    """The Feedback of a TrainState."""
    return Feedback(state.weights['synapses'], state.state.memory)


def dissect(model, variables, x, key, *, train_kwargs=None):
    return parts_of(bound(model, x, train_kwargs), variables, x, key)


def level_learner(model, wiring, mesh, x, *, train_kwargs=None, **options):
    net = sites(model, x, train_kwargs=train_kwargs)
    return apart(parallel.level_update_fn(net, wiring, mesh, Options(**options)))


def level_update_fn(model, wiring, mesh, *, train_kwargs=None, **options):
    """The update alone, of batches of any size."""
    parallel.mesh.check_mesh(mesh)

    def update(variables, feedback, batch, key):
        learner = level_learner(model, wiring, mesh, batch['image'], train_kwargs=train_kwargs, **options)
        return learner.update(variables, feedback, batch, key)

    return update


def stream_update_fn(model, wiring, *, train_kwargs=None, **options):
    def update(variables, feedback, batch, key):
        net = sites(model, batch['image'], train_kwargs=train_kwargs)
        return apart(stream.stream_update_fn(net, wiring, Options(**options))).update(variables, feedback, batch, key)

    return update


def stream_step(model, wiring, variables, x, *optimizer, synapse_std=0.05, train_kwargs=None, **options):
    net = sites(model, x, train_kwargs=train_kwargs)
    return _started(
        stream.stream_step(net, wiring, optimizers(*optimizer), Options(**options), synapse_std=synapse_std)
    )


def stage_step(
    model, wiring, mesh, variables, x, *optimizer, microbatches=1, synapse_std=0.05, train_kwargs=None, **options
):
    net, more = sites(model, x, train_kwargs=train_kwargs), {'microbatches': microbatches, 'synapse_std': synapse_std}
    return _started(stage.stage_step(net, wiring, mesh, optimizers(*optimizer), Options(**options), **more))


def _started(step):
    return step._replace(init=lambda key, variables, batch=None: step.init(key, variables))


def packing(model, wiring, x, *, options, stages=None):
    return Packing(sites(model, x), wiring, options=options, stages=stages)


def modes(model, wiring, x, devices):
    return cost.modes(sites(model, x), wiring, devices)
