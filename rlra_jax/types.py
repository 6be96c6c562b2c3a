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


class Window(NamedTuple):
    """Along one axis, position p sees positions stride p + first to stride p + last."""

    first: int
    last: int
    stride: int


Windows = tuple[Window, ...]  # one for each axis of positions


@dataclasses.dataclass(frozen=True)
class Region:
    """A part of the model that ends at a `Site` (or at the model's output) and that has error neurons of its own."""

    name: str  # the Site's path (`paths.join`), such as 'hidden_2' or 'block_1/act'; 'output' for the logits
    shape: tuple[int, ...]  # of the pre-activation h, batch axis included
    dtype: Any
    inputs: tuple[str, ...] = ()  # the regions whose activity reaches h without passing another Site, in forward order
    skips: tuple[str, ...] = ()  # those of them that h adds unchanged, and does not use otherwise: residual skips
    windows: tuple[Windows | None, ...] = ()  # of each of the inputs: what h's positions see of it; None: not known

    def sees(self, other: str) -> Windows | None:
        """The windows through which h sees the activity of another region; None: not known, or not at all."""
        return dict(zip(self.inputs, self.windows, strict=False)).get(other)


@dataclasses.dataclass(frozen=True)
class Edge:
    """An error synapse E_{source -> target}: carries the source's error neurons to the target. A pytree leaf."""

    source: str
    target: str
    kind: str = 'dense'  # what `synapses.synapse` knows: a name in SYNAPSES, or one with windows
    rule: str = 'mirror'  # a name in `rules.RULES`
    batch_norm: bool = False  # whether the forward path ends in batch normalisation: see `batch_norm.py`
    skips: tuple[str, ...] | None = None  # regions that h_source adds to what is normalised; None: not known

    @property
    def name(self) -> str:
        """The key of this edge in the error-pathway pytree: 'source->target', in quotes if a name has an arrow."""
        ends = self.source, self.target
        return '->'.join(map(repr, ends) if any('->' in end for end in ends) else ends)


@dataclasses.dataclass(frozen=True)
class Wiring:
    """All error pathways, grouped by recursion level. Static and hashable."""

    output: str  # the region where the recursion starts
    levels: tuple[tuple[Edge, ...], ...]  # levels[r - 1] holds the edges into the regions of level r

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, nearest the output first."""
        return tuple(edge for level in self.levels for edge in level)


class Feedback(NamedTuple):
    """What a learner keeps besides the model's variables."""

    synapses: PyTree  # trained by the synapse optimizer; rec-LRA: (level 1, level 2, ...), each {edge name: E}
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
