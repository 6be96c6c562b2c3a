"""A model bound to the way it is called: what every question about it and every pass through it starts from."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, overload

import jax
import numpy as np

from rlra_jax.model.axes import with_axes
from rlra_jax.model.frontend import frontend
from rlra_jax.model.loops import Mark
from rlra_jax.types import Array, Batch, Call, GivenBatch, Model, Outputs, Region, Variables
from rlra_jax.validate import check_batch, require


@dataclasses.dataclass(frozen=True, eq=False)
class Net(Sequence[Region]):
    """A model, how it is called, an example batch, and its regions, of which it is the sequence.

    `regions.regions` makes one.

    Attributes:
      model: a linen or nnx module whose activations are Sites.
      call: (module, batch) -> outputs.
      example: a batch as jax.ShapeDtypeStructs.
      regions: in forward order, the outputs last.
      repeated: the paths of Sites that one pass calls several times: each call is a region.
      marks: the calls of Sites, where some sit in loops or nn.jit, so that a pass must trace the model to see them.
    """

    model: Model
    call: Call
    example: Batch
    regions: tuple[Region, ...] = ()
    repeated: frozenset[str] = frozenset()
    marks: tuple[Mark, ...] = ()

    def __len__(self) -> int:
        return len(self.regions)

    def __iter__(self) -> Iterator[Region]:
        return iter(self.regions)

    @overload
    def __getitem__(self, index: int) -> Region: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Region, ...]: ...

    def __getitem__(self, index: Any) -> Any:
        return self.regions[index]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The regions that are outputs of the model."""
        return tuple(region.name for region in self.regions if region.output)

    def init(self, key: Array) -> Variables:
        """The model's variables: drawn anew, or an nnx module's own."""
        batch = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), dict(self.example))
        return dict(frontend(self.model).init(self.model, self.call, key, batch))

    def apply(self, variables: Variables, batch: Batch, key: Array | None = None) -> tuple[Outputs, Variables]:
        """(outputs, the collections other than params after the pass); key: of the random streams."""
        return frontend(self.model).apply(self.model, self.call, variables, batch, key)

    def variable_shapes(self, batch: Batch | None = None) -> Variables:
        """The variables as jax.ShapeDtypeStructs, for a batch like this; nothing is computed."""
        return dict(self._own_shapes if batch is None else self._shapes(batch))

    @functools.cached_property
    def _own_shapes(self) -> Variables:
        return self._shapes(self.example)

    def _shapes(self, batch: Batch) -> Variables:
        check_batch(batch)
        init = frontend(self.model).init
        key = jax.random.key(0)
        return with_axes(jax.eval_shape, lambda key, batch: init(self.model, self.call, key, batch), key, like(batch))


def require_net(net: Any) -> None:
    """Raises ValueError unless net is one."""
    require(isinstance(net, Net), 'net', 'what rlra_jax.regions(model, batch) returns', type(net).__name__)


def require_no_loops(net: Net, what: str) -> None:
    """Raises ValueError if Sites lie in loops that JAX traces once; what: which cannot train those."""
    looped = [region.name for region in net if region.stack]
    if looped:
        raise ValueError(
            f'{what} cannot train {looped}, which lie in a loop that JAX traces once, such as nn.scan; write it as a '
            'loop of Python, or take rec_lra, backprop or direct_feedback_alignment on one device or in data mode'
        )


def like(batch: GivenBatch, size: int | None = None) -> dict[str, Any]:
    """A batch as jax.ShapeDtypeStructs, as JAX takes it, wherever it lies; of so many examples, if a size is given."""

    def shape(value: Array | np.ndarray[Any, Any]) -> tuple[int, ...]:
        return value.shape if size is None else (size, *value.shape[1:])

    def dtype(value: Array | np.ndarray[Any, Any]) -> Any:
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.extended):  # random keys
            return value.dtype
        return jax.dtypes.canonicalize_dtype(value.dtype)  # NumPy's float64 is float32 unless 64 bits are switched on

    return {name: jax.ShapeDtypeStruct(shape(value), dtype(value)) for name, value in batch.items()}
