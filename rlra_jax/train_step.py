"""`make_train_step`: a learner and two optimizers become one pure step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from rlra_jax.types import Array, Aux, Batch, Feedback, Learner, Variables
from rlra_jax.unused_gpu import warn_of_unused_gpu
from rlra_jax.validate import require, require_optimizer

SYNAPSE_SGD = optax.sgd(0.3)  # suits the rule `mirror`; the others want about 0.01


class TrainState(NamedTuple):
    """All that a step changes. A pytree: it jits, vmaps over seeds and checkpoints."""

    variables: Variables
    feedback: Feedback
    optimizer: Any  # optax state of the parameters
    synapse_optimizer: Any  # optax state of the error synapses


class TrainStep(NamedTuple):
    """A pair of pure functions."""

    init: Callable[[Array, Variables, Batch], TrainState]  # (key, variables, batch)
    update: Callable[[TrainState, Batch, Array], tuple[TrainState, Aux]]  # (state, batch, key)


def make_train_step(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    synapse_optimizer: optax.GradientTransformation = SYNAPSE_SGD,
) -> TrainStep:
    """Joins a learner with its optimizers.

    Args:
      learner: what a factory in `LEARNERS` returned.
      optimizer: of the model's parameters W.
      synapse_optimizer: of the error synapses E; plain SGD at 0.3 suits the rule `mirror`, or at 1 where all edges join
        neighbours (the others want about 0.01). Apart from W's, since an adaptive optimizer would cancel gamma.

    Both get the batch's loss as `value=`, which optax.contrib.reduce_on_plateau and others go by. Under
    `jax_numpy_dtype_promotion='strict'` take one that counts no steps, such as optax.sgd or optax.rmsprop: optax.adam,
    its kin and decaying schedules (of optax 0.2.8) join their integer count to floats, which JAX then refuses.

    Raises:
      ValueError: the learner or an optimizer is none.
    """
    warn_of_unused_gpu()
    require(isinstance(learner, Learner), 'learner', 'what a factory in LEARNERS returned', learner)
    require_optimizer('optimizer', optimizer)
    require_optimizer('synapse_optimizer', synapse_optimizer)
    of_params, of_synapses = map(optax.with_extra_args_support, (optimizer, synapse_optimizer))

    def init(key: Array, variables: Variables, batch: Batch) -> TrainState:
        return first_state(variables, learner.init(key, variables, batch), optimizer, synapse_optimizer)

    def update(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Aux]:
        params = state.variables['params']
        grads, feedback, aux = learner.update(state.variables, state.feedback, batch, key)
        updates, optimizer_state = of_params.update(grads.params, state.optimizer, params, value=aux.loss)
        params = optax.apply_updates(params, updates)
        updates, synapse_state = of_synapses.update(
            grads.synapses, state.synapse_optimizer, state.feedback.synapses, value=aux.loss
        )
        feedback = feedback._replace(synapses=optax.apply_updates(state.feedback.synapses, updates))
        variables = {**state.variables, **aux.variables, 'params': params}
        return TrainState(variables, feedback, optimizer_state, synapse_state), aux

    return TrainStep(init, update)


def first_state(
    variables: Variables,
    feedback: Feedback,
    optimizer: optax.GradientTransformation,
    synapse_optimizer: optax.GradientTransformation,
) -> TrainState:
    """The state before the first step."""
    states = optimizer.init(variables['params']), synapse_optimizer.init(feedback.synapses)
    return TrainState(variables, feedback, *states)


def seed_axes(state: TrainState) -> TrainState:
    """The vmap axes of a state that holds several seeds: 0 everywhere but in the counters, which all seeds share.

    A counter that is not batched keeps `lax.cond` on it a branch; batched, XLA would run both sides at every step.
    """
    axes = jax.tree.map(lambda _: 0, state)
    memory = {name: None if name == 'step' else axis for name, axis in axes.feedback.memory.items()}
    return axes._replace(feedback=axes.feedback._replace(memory=memory))
