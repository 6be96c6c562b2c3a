"""What updates are given, checked against the model before anything is computed: variables, feedback, batch and key.

All of it goes by shapes, so under jit it costs nothing once a step is compiled.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import numpy as np

from rlra_jax.axes import beside_batch
from rlra_jax.frontend import variable_shapes
from rlra_jax.paths import flatten, readable
from rlra_jax.types import Array, Batch, Feedback, Learner, Model, PyTree, Variables
from rlra_jax.validate import check_batch, check_key, check_variables

Draw = Callable[[Array, Variables, Batch], Feedback]  # (key, variables, batch) -> what a learner starts with
Expect = Callable[[Feedback, Array, Variables, Batch], Feedback]  # (what came, ...) -> shapes of what should have come
_LISTED = 4  # differences that an error names


def check_model_variables(
    model: Model, variables: Variables, x: Array, train_kwargs: Mapping[str, Any] | None = None
) -> None:
    """Raises ValueError, naming paths and shapes, unless variables are those of the model for a batch like x.

    Collections that the model only sows into may be missing.
    """
    check_variables(variables)
    own, given = (flax.core.meta.unbox(dict(tree)) for tree in (variable_shapes(model, x, train_kwargs), variables))
    wanted = {name: tree for name, tree in own.items() if name in given or not _sown(tree)}
    _check_shapes(f'the variables do not fit the model and images {tuple(x.shape)}', given, wanted)


def check_feedback(feedback: Feedback, expected: Feedback) -> None:
    """Raises ValueError, naming the synapses and shapes, unless feedback is like what the learner's init returns.

    Args:
      feedback: what came.
      expected: the same of arrays or jax.ShapeDtypeStructs.
    """
    _check_shapes("the feedback is not what this learner's init returns for this model", feedback, expected)
    came, wanted = jax.tree.structure(feedback), jax.tree.structure(expected)
    if str(came) != str(wanted):
        raise ValueError(f"the feedback must be a tree like that of the learner's init, {wanted}; got {came}")


def check_kind(feedback: Feedback) -> None:
    """Raises ValueError unless it is a Feedback, and its levels are no list."""
    if not isinstance(feedback, Feedback):
        raise ValueError(
            f"feedback must be the Feedback that the learner's init returned; got {type(feedback).__name__}"
        )
    if isinstance(feedback.synapses, list):
        raise ValueError(
            'the synapses must be a tuple of levels, not a list: tuple(synapses) if a checkpoint gave them'
        )


def checked(
    step: Callable[[Variables, Feedback, Batch, Array], Any],
    model: Model,
    expect: Expect,
    train_kwargs: Mapping[str, Any] | None,
) -> Callable[[Variables, Feedback, Batch, Array], Any]:
    """An update or a probe that first checks what it is given.

    Args:
      step: (variables, feedback, batch, key) -> anything.
      model: a linen or nnx module.
      expect: what feedback must be like.
      train_kwargs: further keyword arguments of the model's call.
    """

    @beside_batch
    def run(variables: Variables, feedback: Feedback, batch: Batch, key: Array) -> Any:
        _check(model, variables, batch, key, train_kwargs)
        check_kind(feedback)
        check_feedback(feedback, expect(feedback, key, variables, batch))
        return step(variables, feedback, batch, key)

    return run


def as_drawn(draw: Draw) -> Expect:
    """Expects shapes as a learner's init, or as much of it as settles them, draws."""
    return lambda feedback, key, variables, batch: jax.eval_shape(draw, key, variables, batch)


def checked_init(init: Draw, model: Model, train_kwargs: Mapping[str, Any] | None) -> Draw:
    """A learner's init that first checks what it is given; arguments: as of `checked`."""

    def run(key: Array, variables: Variables, batch: Batch) -> Feedback:
        _check(model, variables, batch, key, train_kwargs)
        return init(key, variables, batch)

    return run


def checked_learner(
    learner: Learner, model: Model, train_kwargs: Mapping[str, Any] | None, expect: Expect | None = None
) -> Learner:
    """A learner that first checks what it is given; arguments: as of `checked`. If none, init tells what to expect."""
    expect = expect or as_drawn(learner.init)
    return Learner(
        checked_init(learner.init, model, train_kwargs),
        checked(learner.update, model, expect, train_kwargs),
        learner.predict and _checked_predict(learner.predict, model, train_kwargs),
        learner.probe and checked(learner.probe, model, expect, train_kwargs),
    )


def _checked_predict(
    predict: Callable[[Variables, Array], Array], model: Model, train_kwargs: Mapping[str, Any] | None
) -> Callable[[Variables, Array], Array]:
    def run(variables: Variables, x: Array) -> Array:
        check_model_variables(model, variables, x, train_kwargs)
        return predict(variables, x)

    return run


def _check(
    model: Model, variables: Variables, batch: Batch, key: Array, train_kwargs: Mapping[str, Any] | None
) -> None:
    check_key(key)
    check_batch(batch)
    check_model_variables(model, variables, batch['image'], train_kwargs)


def _sown(tree: PyTree) -> bool:
    """Whether all of a collection lies in tuples, as what a model sows does."""
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    return all(any(isinstance(key, jax.tree_util.SequenceKey) for key in path) for path in paths)


def _check_shapes(what: str, came: PyTree, wanted: PyTree) -> None:
    got, own = ({path: np.shape(leaf) for path, leaf in flatten(tree).items()} for tree in (came, wanted))
    found = [f'{readable(path)} is missing' for path in own if path not in got]
    found += [f'{readable(path)} is too much' for path in got if path not in own]
    found += [
        f'{readable(path)} must be {shape}, and is {got[path]}'
        for path, shape in own.items()
        if got.get(path, shape) != shape
    ]
    if found:
        more = [f'and {len(found) - _LISTED} more'] if found[_LISTED:] else []
        raise ValueError(f'{what}: {"; ".join([*found[:_LISTED], *more])}')
