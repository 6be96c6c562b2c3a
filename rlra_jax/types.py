"""The types that every module shares. `B` is the batch size; `r` a recursion level, 1 being nearest the output."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

Array = jax.Array
PyTree = Any
Model = nn.Module | nnx.Module
Variables = Mapping[str, PyTree]  # {'params': ..., 'batch_stats': ...}: what `model.init` returns
Batch = Mapping[str, Array]  # what a call of the model and the loss read; each array has the examples [B, ...] in front
GivenBatch = Mapping[str, Array | np.ndarray[Any, Any]]  # the same as users hand it over
Outputs = Any  # what a model returns: an array [B, ...], or {name: array}, each with the examples in front
Call = Callable[..., Outputs]  # (module, batch), or (module, batch, key) -> outputs
Loss = Callable[[Any, Batch], Array]  # (outputs, batch) -> [B], a number for each example
Phi = Callable[[Array], Array]  # [B, ...] -> [B, ...]; never differentiated by rec-LRA
OnSite = Callable[[str, Phi, Array], Array]  # (region, its phi, h) -> what leaves the Site


@dataclasses.dataclass(frozen=True)
class Region:
    """A part of the model that ends at a `Site`, or at an output, and that has error neurons of its own."""

    name: str  # the Site's path (`paths.join`), such as 'block_1/act'; 'output', or of several outputs 'output/NAME'
    shape: tuple[int, ...]  # of the pre-activation h, batch axis included
    dtype: DTypeLike
    # The regions whose activity h reads and follows, without another Site between them; None where no trace has told.
    inputs: tuple[str, ...] | None = None
    weights: tuple[str, ...] = ()  # the parameters that an error meets on its way back from h to them
    weights_size: int = 0  # how many numbers these hold together: the size of a synapse of the kind `Path`
    output: bool = False  # whether it ends at an output of the model, where errors come from
    stack: str = ''  # of regions in a loop that JAX traces once, as nn.scan does: the first of these, for all of them
    loops: int = 0  # how many loops hold it; their iterations stand in axes of `shape`, behind the batch's
    scanned: tuple[tuple[str, int], ...] = ()  # parameters of which each iteration has its own, and along which axis
    unlike: tuple[int, ...] = ()  # those of its loops, 0 the outermost, whose iterations have parameters of their own
    shares: str = ''  # its Site, if that has other calls, or iterations, that use the same parameters


class State(NamedTuple):
    """What an update renews beside the weights; nothing of it is optimised."""

    collections: Variables  # the model's other than params, such as {'batch_stats': ...}; {} if it has none
    memory: dict[str, Array]  # the learner's: {'step': int32 []} and the like


class Aux(NamedTuple):
    """What an update knows besides the gradients."""

    loss: Array  # [] mean over the batch
    outputs: Outputs  # the model's, float32 or wider
    discrepancy: Array  # [] total discrepancy, Eq. 2, averaged over the batch; zero for learners without targets


# W and E as one tree: {'params': the model's parameters, 'synapses': what else is trained}. Gradients are alike.
Weights = dict[str, PyTree]
Update = Callable[[Weights, State, Batch, Array], tuple[Weights, State, Aux]]  # (weights, state, batch, key)
Probe = Callable[[Weights, State, Batch, Array], dict[str, Array]]  # (weights, state, batch, key) -> scalars by name


class Init(Protocol):
    """How a learner starts."""

    def __call__(self, key: Array, variables: Variables | None = None) -> tuple[Weights, State]:
        """What it trains and what it keeps; variables: the model's own, or None to draw them."""


@dataclasses.dataclass(frozen=True)
class Learner:
    """A training algorithm as two pure functions, like an optax transformation. Called, it is its update."""

    init: Init
    update: Update  # -> (gradients in the tree of the weights, averaged over the batch; the next state; Aux)
    predict: Callable[[Variables, Batch], Outputs] | None = None  # (variables, batch) -> outputs; None: the model's own
    probe: Probe | None = None  # what it alone can tell for `diagnostics.diagnose`
    loss: Loss | None = None  # what it lowers: (outputs, batch) -> [B]

    def __call__(self, weights: Weights, state: State, batch: GivenBatch, key: Array) -> tuple[Weights, State, Aux]:
        return self.update(weights, state, cast(Batch, batch), key)


def variables_of(weights: Weights, state: State) -> Variables:
    """The model's variables, {'params': ..., other collections}."""
    return {**state.collections, 'params': weights['params']}
