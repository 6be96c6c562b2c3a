"""The regions of a model: what ends at each Site, which feeds which, and by which parameters."""

import dataclasses
from collections.abc import Iterator

import jax

from rlra_jax.model.axes import with_axes
from rlra_jax.model.call import check_call, default_call
from rlra_jax.model.capture import activations, batch_size, forward
from rlra_jax.model.frontend import frontend
from rlra_jax.model.net import Net, like
from rlra_jax.model.programs import Program, Values, cut_model, way_back
from rlra_jax.paths import split_call
from rlra_jax.types import Call, GivenBatch, Model, Region
from rlra_jax.validate import check_batch


def regions(model: Model, batch: GivenBatch, *, call: Call | None = None) -> Net:
    """Binds a model: its regions in forward order, the outputs last, and what feeds each; nothing is computed.

    Args:
      model: a linen or nnx module whose activations are Sites. One that is called several times, as in a loop over
        time, makes a region at each call: 'cell/act#0', 'cell/act#1' and so on.
      batch: an example, each array `[B, ...]` or its jax.ShapeDtypeStruct; other batches may have another size B.
      call: how the model is called: (module, batch) -> an array `[B, ...]`, or {name: array} of several outputs, whose
        regions are 'output/NAME'. If None, on batch['image'], and with train=True where the model takes that. One that
        takes a third argument gets a key, for random streams.

    Raises:
      ValueError: the model is in no known framework, the batch is none, call is no such function or does not call the
        module; or as `capture.forward`.
    """
    frontend(model)
    check_batch(batch)
    if call is not None:
        check_call(call)
    elif 'image' not in batch:
        raise ValueError(f"without a call the model is called on batch['image']; the batch holds {sorted(batch)}")
    net = Net(model, call or default_call(model), like(batch))
    if 'params' not in (made := net.variable_shapes()):
        raise ValueError(
            f'the call must call the module, which then makes its parameters; it made {sorted(made) or "nothing"}'
        )
    net = dataclasses.replace(net, repeated=_repeated(net))
    return dataclasses.replace(net, regions=tuple(_find(net)))


def _repeated(net: Net) -> frozenset[str]:
    calls = map(split_call, activations(net))
    return frozenset(site for site, number in calls if number is not None)


def _find(net: Net) -> Iterator[Region]:
    variables, key = net.variable_shapes(), jax.random.key(0)
    cut = cut_model(net, variables, net.example, key)
    size = batch_size(net.example)
    if any(size in h.shape[1:] for h in cut.h.values()):  # is the first axis of that length the batch's?
        other = like(net.example, size + 1)
        with_axes(jax.eval_shape, lambda v, x, k: forward(net, v, x, rngs=k).h, variables, other, key)
    order = list(cut.h)
    for name, program in cut.programs().items():
        reached, weights, weights_size = met(program, cut.values)
        inputs = tuple(other for other in order if other in reached)
        yield Region(name, cut.h[name].shape, cut.h[name].dtype, inputs, weights, weights_size, name not in cut.phi)


def met(program: Program, values: Values) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """What an error meets on its way back from a region: (regions, whose activities h reads; parameters; their size).

    Not those behind a `lax.stop_gradient`, or behind an operation without a derivative.

    Args:
      program: of the region's pre-activation.
      values: what the program reads; shapes will do.
    """
    found = []

    def look(values: Values) -> None:
        found.append(way_back(program, values).met()['z'])

    with_axes(jax.eval_shape, look, values)
    (numbers,) = found
    reached = tuple(name for name in program.named('z') if numbers[name] is not None)
    used = set().union(*(numbers[name] for name in reached))
    weights = tuple(name for i, name in enumerate(sorted(program.named('params'))) if i in used)
    return reached, weights, sum(values['params'][name].size for name in weights)
