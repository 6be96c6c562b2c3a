"""The types that every module shares. `B` is the batch size; `r` a recursion level, 1 being nearest the output."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
Model = Any  # an instance of flax.linen.Module or flax.nnx.Module that maps images [B, ...] to logits [B, classes]
Variables = Mapping[str, PyTree]  # {'params': ..., 'batch_stats': ...}: what `model.init` returns
Batch = Mapping[str, Array]  # {'image': [B, ...] floating, 'label': [B] integer class indices}
Phi = Callable[[Array], Array]  # [B, ...] -> [B, ...]; never differentiated by rec-LRA
OnSite = Callable[[str, Phi, Array], Array]  # (region, its phi, h) -> what leaves the Site


@dataclasses.dataclass(frozen=True)
class Region:
    """A part of the model that ends at a `Site` (or at the model's output) and that has error neurons of its own."""

    name: str  # the Site's path (`paths.join`), such as 'hidden_2' or 'block_1/act'; 'output' for the logits
    shape: tuple[int, ...]  # of the pre-activation h, batch axis included
    dtype: Any
    # The regions whose activity h reads and follows, without another Site between them; None where no trace has told.
    inputs: tuple[str, ...] | None = None
    weights: tuple[str, ...] = ()  # the parameters that an error meets on its way back from h to them
    weights_size: int = 0  # how many numbers these hold together: the size of a synapse of the kind `Path`


class Feedback(NamedTuple):
    """What a learner keeps besides the model's variables."""

    synapses: PyTree  # trained by the synapse optimizer; rec-LRA: (level 1, level 2, ...), each {synapse: E}
    memory: dict[str, Array]  # returned new by every update: {'step': int32 []} and the like; not optimised


class LocalGrads(NamedTuple):
    """Gradient-like: an optax optimizer subtracts them. Averaged over the global batch exactly once."""

    params: PyTree  # the tree of variables['params']
    synapses: PyTree  # the tree of Feedback.synapses


class Aux(NamedTuple):
    """What an update knows besides the gradients."""

    loss: Array  # [] mean cross-entropy, in nats
    error: Array  # [] share of examples classified wrongly, 0 to 1
    logits: Array  # [B, classes]
    variables: Variables  # the model's other collections after this step (batch statistics); {} if it has none
    discrepancy: Array  # [] total discrepancy, Eq. 2, averaged over the batch; zero for learners without targets


Probe = Callable[[Variables, Feedback, Batch, Array], dict[str, Array]]  # (..., key) -> scalars by name


class Learner(NamedTuple):
    """A training algorithm as two pure functions, like an optax transformation."""

    init: Callable[[Array, Variables, Batch], Feedback]  # (key, variables, batch)
    update: Callable[[Variables, Feedback, Batch, Array], tuple[LocalGrads, Feedback, Aux]]  # (..., key)
    predict: Callable[[Variables, Array], Array] | None = None  # (variables, x) -> logits; None: the model's own pass
    probe: Probe | None = None  # what it alone can tell for `diagnostics.diagnose`
