"""`make_train_step`: a learner and an optimizer become one pure step."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlra_jax.rules import Mirror
from rlra_jax.types import Array, Aux, Batch, Learner, PyTree, State, Variables, Weights, variables_of
from rlra_jax.unused_gpu import warn_of_unused_gpu
from rlra_jax.validate import require, require_optimizer


class TrainState(NamedTuple):
    """All that a step changes. A pytree: it jits, vmaps over seeds and checkpoints."""

    weights: Weights
    state: State
    optimizer: optax.OptState

    @property
    def variables(self) -> Variables:
        """The model's: {'params': ..., other collections}."""
        return variables_of(self.weights, self.state)


class TrainStep(NamedTuple):
    """A pair of pure functions."""

    init: Callable[..., TrainState]  # (key, variables=None)
    update: Callable[[TrainState, Batch, Array], tuple[TrainState, Aux]]  # (state, batch, key)


_SYNAPSE_SGD = optax.sgd(Mirror.rate)


def optimizers(
    params: optax.GradientTransformation,
    synapses: optax.GradientTransformation = _SYNAPSE_SGD,
    paths: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """One optimizer of all weights: `optax.partition` by params and synapses.

    Apart, since an adaptive optimizer of the synapses would cancel gamma. Masks and labels, as of optax.masked, must be
    functions of a tree: a part sees all weights, those of the others as optax.MaskedNode().

    Args:
      params: of the model's parameters W.
      synapses: of the error synapses E; plain SGD at 0.3 suits the rule `Mirror`, or at 1 where all edges join
        neighbours. `KolenPollack(equal=True)` needs W's own; for other rules SGD at 0.01 is a start.
      paths: of the synapses along paths; None: as the others. Where these follow W by `KolenPollack` and mirrors learn
        what comes from afar, they want W's own optimizer.

    Raises:
      ValueError: one is no optimizer.
    """
    parts = {'params': params, 'synapses': synapses, **({} if paths is None else {'paths': paths})}
    for name, part in parts.items():
        require_optimizer(name, part)
    return optax.partition(parts, {name: name for name in parts} if paths is None else _labels)


def _labels(weights: Weights) -> dict[str, PyTree]:
    """Which of params, synapses and paths each part of the weights is."""
    levels = weights['synapses']
    if not isinstance(levels, tuple):  # of a learner that has no levels, or of a block by itself
        return {'params': 'params', 'synapses': _label(levels)}
    return {'params': 'params', 'synapses': tuple(map(_label, levels))}


def _label(synapses: Mapping[str, PyTree]) -> dict[str, str]:
    """Along a path they are called 'j->', and 'j-> path' one by one (`parallel.blocks.to_flat`)."""
    return {name: 'paths' if '-> ' in f'{name} ' else 'synapses' for name in synapses}


def make_train_step(learner: Learner, optimizer: optax.GradientTransformation) -> TrainStep:
    """Joins a learner with an optimizer.

    Args:
      learner: what `update_fn`, or another factory in `LEARNERS`, returned.
      optimizer: of the weights, such as `optimizers` makes. It gets the batch's loss as `value=`, which
        optax.contrib.reduce_on_plateau and others go by. Under `jax_numpy_dtype_promotion='strict'` take one that
        counts no steps, such as optax.sgd or optax.rmsprop: optax.adam, its kin and decaying schedules (of optax 0.2.8)
        join their integer count to floats, which JAX then refuses.

    Raises:
      ValueError: the learner or the optimizer is of another type.
    """
    warn_of_unused_gpu()
    require(isinstance(learner, Learner), 'learner', 'what a factory in LEARNERS returned', learner)
    require_optimizer('optimizer', optimizer)
    tx = optax.with_extra_args_support(optimizer)

    def init(key: Array, variables: Variables | None = None) -> TrainState:
        weights, state = learner.init(key, variables)
        return TrainState(weights, state, tx.init(weights))

    def update(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Aux]:
        grads, after, aux = learner.update(state.weights, state.state, batch, key)
        updates, moments = tx.update(downhill(grads), state.optimizer, state.weights, value=aux.loss)
        return TrainState(optax.apply_updates(state.weights, updates), after, moments), aux

    return TrainStep(init, update)


def downhill(grads: PyTree) -> PyTree:
    """What an optimizer subtracts: JAX's gradients, of complex weights their conjugates (`jax.grad` says why)."""
    return jax.tree.map(lambda leaf: leaf.conj() if jnp.iscomplexobj(leaf) else leaf, grads)


def seed_axes(state: TrainState) -> TrainState:
    """The vmap axes of a state that holds several seeds: 0 everywhere but in the counters, which all seeds share.

    A counter that is not batched keeps `lax.cond` on it a branch; batched, XLA would run both sides at every step.
    """
    axes = jax.tree.map(lambda _: 0, state)
    memory = {name: None if name == 'step' else axis for name, axis in axes.state.memory.items()}
    return axes._replace(state=axes.state._replace(memory=memory))
