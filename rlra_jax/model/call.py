"""How a model is called: a function of module and batch, said once."""

import functools
import inspect
from collections.abc import Callable

import jax

from rlra_jax.types import Array, Batch, Call, Model
from rlra_jax.validate import require

_KEYS = 'key', 'rng', 'rngs'  # what an argument with a default is called that gets the key


def default_call(model: Model) -> Call:
    """`module(batch['image'])`, with train=True where the model's `__call__` takes that.

    A model that hands all on to another, `read_model`, is called as that one.
    """
    called = getattr(model, 'read_model', model)
    if 'train' in inspect.signature(type(called).__call__).parameters:
        return call_in_training
    return call_on_image


def call_on(name: str) -> Call:
    """The call of a module on one entry of a batch."""

    def call(module: Model, batch: Batch) -> Array:
        return module(batch[name])

    return call


call_on_image = call_on('image')


def call_in_training(module: Model, batch: Batch) -> Array:
    """The same, of modules that tell training from inference, as batch normalisation must."""
    return module(batch['image'], train=True)


def to_answer(call: Call) -> Call:
    """The call in inference of a model that tells training from it; a call that a user gave stays as it is."""
    return call_on_image if call is call_in_training else call


def check_call(call: Call) -> None:
    """Raises ValueError unless call is a function of a module and a batch, and may be of a key."""
    expected = "a function of module and batch, such as lambda module, batch: module(batch['image'], train=True)"
    require(callable(call) and _count(call) in (2, 3), 'call', expected, call)


def with_key(call: Call, key: Array | None) -> Callable[[Model, Batch], Array]:
    """The call as a function of module and batch alone: one that takes a third argument gets the key.

    So does one that need not be given it, but calls it key, rng or rngs; without a key it keeps its default.
    """
    if _count(call) == 3:
        return _given(call, jax.random.key(0) if key is None else key)
    optional = _optional_key(call)
    return call if optional is None or key is None else _given(call, **{optional: key})


def _given(call: Call, *more: Array, **named: Array) -> Callable[[Model, Batch], Array]:
    @functools.wraps(call)
    def called(module: Model, batch: Batch) -> Array:
        return call(module, batch, *more, **named)

    return called


def _optional_key(call: Call) -> str | None:
    """The name of a key that the call has a default for."""
    parameters = inspect.signature(call).parameters.values()
    taken = (p for p in parameters if p.default is not p.empty and p.kind is not p.POSITIONAL_ONLY)
    return next((p.name for p in taken if p.name in _KEYS), None)


def _count(call: Call) -> int:
    """How many arguments it must be given."""
    parameters = inspect.signature(call).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
