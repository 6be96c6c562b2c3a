"""A learner that checks what it is given against its model, before anything is computed.

All of it goes by shapes, so under jit it costs nothing once a step is compiled.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.loss import require_loss
from rlra_jax.model.axes import beside_batch
from rlra_jax.model.net import Net
from rlra_jax.paths import flatten, readable
from rlra_jax.types import Array, Batch, Learner, Loss, Probe, PyTree, State, Update, Variables, Weights, variables_of
from rlra_jax.validate import check_batch, check_key, check_variables

# (key, variables) -> what a learner trains besides the model's parameters, what it remembers
Draw = Callable[[Array, Variables], tuple[PyTree, dict[str, Array]]]
_LISTED = 4  # differences that an error names


def make_learner(
    net: Net,
    loss: Loss,
    draw: Draw,
    update: Update,
    *,
    check: Callable[[], object] = lambda: None,
    predict: Callable[[Variables, Batch], Array] | None = None,
    probe: Probe | None = None,
) -> Learner:
    """A Learner of these functions, which hear of nothing that does not fit the model.

    Args:
      net: the model and its call.
      loss: (outputs, batch) -> `[B]`.
      draw: what the learner starts with; of shapes alone, all that an update expects.
      update: as `Learner.update`.
      check: called by `Learner.init` before the draw; raises where the learner cannot train the model.
      predict: as `Learner.predict`.
      probe: as `Learner.probe`.

    Raises:
      ValueError: the loss is no function.
    """
    require_loss(loss)

    def init(key: Array, variables: Variables | None = None) -> tuple[Weights, State]:
        check_key(key)
        if variables is None:
            key, key_model = jax.random.split(key)
            variables = net.init(key_model)
        check_model_variables(net, variables, net.example)
        check()
        synapses, memory = draw(key, variables)
        collections = {name: tree for name, tree in variables.items() if name != 'params'}
        return {'params': variables['params'], 'synapses': synapses}, State(collections, memory)

    def checked_predict(variables: Variables, batch: Batch) -> Array:
        assert predict is not None
        check_model_variables(net, variables, batch)
        return predict(variables, batch)

    return Learner(
        init,
        checked(update, net, draw),
        predict and checked_predict,
        probe and checked(probe, net, draw),
        loss,
    )


def checked(step: Callable[[Weights, State, Batch, Array], Any], net: Net, draw: Draw) -> Callable[..., Any]:
    """An update or a probe that first checks what it is given; arguments: as of `make_learner`."""

    @beside_batch
    def run(weights: Weights, state: State, batch: Batch, key: Array) -> Any:
        check_key(key)
        check_batch(batch, net.example)
        check_weights(weights, state)
        variables = variables_of(weights, state)
        check_model_variables(net, variables, batch)
        synapses, memory = jax.eval_shape(draw, key, variables)
        _check_like(weights['synapses'], synapses, 'synapses')
        _check_like(state.memory, memory, 'entries of memory')
        return step(weights, state, batch, key)

    return run


def check_weights(weights: Weights, state: State) -> None:
    """Raises ValueError unless these are weights and state by their types."""
    if not isinstance(weights, Mapping) or set(weights) != {'params', 'synapses'}:
        came = sorted(weights) if isinstance(weights, Mapping) else type(weights).__name__
        raise ValueError(
            f"weights must be {{'params': ..., 'synapses': ...}}, as the learner's init returns; got {came}"
        )
    if not isinstance(state, State):
        raise ValueError(f"state must be the State that the learner's init returned; got {type(state).__name__}")
    if isinstance(weights['synapses'], list):
        raise ValueError(
            'the synapses must be a tuple of levels, not a list: tuple(synapses) if a checkpoint gave them'
        )


def check_model_variables(net: Net, variables: Variables, batch: Batch) -> None:
    """Raises ValueError, naming paths and shapes, unless variables are those of the model for such a batch."""
    check_variables(variables)
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    _check_shapes(f'the variables do not fit the model and a batch of {shapes}', variables, net.variable_shapes(batch))


def _check_like(came: PyTree, wanted: PyTree, what: str) -> None:
    _check_shapes(f"the {what} are not what this learner's init returns for this model", came, wanted)
    if (structure := str(jax.tree.structure(came))) != (expected := str(jax.tree.structure(wanted))):
        raise ValueError(f"the {what} must be a tree like that of the learner's init, {expected}; got {structure}")


def _check_shapes(what: str, came: PyTree, wanted: PyTree) -> None:
    got, own = flatten(came), flatten(wanted)
    found = [f'{readable(path)} is missing' for path in own if path not in got]
    found += [f'{readable(path)} is too much' for path in got if path not in own]
    for path in filter(got.__contains__, own):
        if np.shape(got[path]) != np.shape(own[path]):
            found.append(f'{readable(path)} must be {np.shape(own[path])}, and is {np.shape(got[path])}')
        elif _floating(own[path]) and not _floating(got[path]):
            found.append(f'{readable(path)} must be floating, and is {getattr(got[path], "dtype", got[path])}')
    if found:
        more = [f'and {len(found) - _LISTED} more'] if found[_LISTED:] else []
        raise ValueError(f'{what}: {"; ".join([*found[:_LISTED], *more])}')


def _floating(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, 'dtype', type(leaf)), jnp.floating)
