"""The regions of a model: what ends at each Site, which feeds which, and by which parameters."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from rlra_jax.model.axes import with_axes
from rlra_jax.model.call import check_call, default_call
from rlra_jax.model.capture import batch_size, forward, marked
from rlra_jax.model.frontend import frontend
from rlra_jax.model.loops import Mark, marks
from rlra_jax.model.net import Net, like
from rlra_jax.model.programs import Program, Values, cut_model, way_back
from rlra_jax.paths import flatten, readable, split_call
from rlra_jax.types import Array, Batch, Call, GivenBatch, Model, Region, Variables
from rlra_jax.validate import check_batch


def regions(model: Model, batch: GivenBatch, *, call: Call | None = None) -> Net:
    """Binds a model: its regions in forward order, the outputs last, and what feeds each; nothing is computed.

    Args:
      model: a linen or nnx module whose activations are Sites. One that is called several times, as in a loop over
        time, makes a region at each call: 'cell/act#0', 'cell/act#1' and so on.
      batch: an example, each array `[B, ...]` or its jax.ShapeDtypeStruct; other batches may have another size B.
      call: how the model is called: (module, batch) -> an array `[B, ...]`, or {name: array} of several outputs, whose
        regions are 'output/NAME'. If None, on batch['image'], and with train=True where the model takes that. One that
        takes a third argument gets a key, for random streams; with a default, if it is called key, rng or rngs.

    Raises:
      ValueError: the model is in no known framework, the batch is none, call is no such function or does not call the
        module; a parameter is not floating; or as `capture.forward`.
    """
    frontend(model)
    check_batch(batch)
    if call is not None:
        check_call(call)
    elif 'image' not in batch:
        raise ValueError(f"without a call the model is called on batch['image']; the batch holds {sorted(batch)}")
    net = Net(model, call or default_call(model), like(batch))
    _check_parameters(net.variable_shapes())
    calls = _calls(net)
    repeated = frozenset(site for site, number in (split_call(own.region) for own in calls) if number is not None)
    net = dataclasses.replace(net, repeated=repeated, marks=calls if any(own.hidden for own in calls) else ())
    return dataclasses.replace(net, regions=tuple(_find(net)))


def _check_parameters(variables: Variables) -> None:
    if 'params' not in variables:
        made = sorted(variables) or 'nothing'
        raise ValueError(f'the call must call the module, which then makes its parameters; it made {made}')
    params = flatten(variables['params'])
    whole = [readable(path) for path, leaf in params.items() if not jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if whole:
        raise ValueError(
            f'parameters must be floating, since they learn; {whole} are not: keep them elsewhere, in linen by '
            "self.variable('constants', ...), in nnx as an nnx.Variable"
        )


def _calls(net: Net) -> tuple[Mark, ...]:
    """All calls of Sites, in forward order."""
    found: list[Mark] = []

    def look(variables: Variables, batch: Batch, key: Array) -> None:
        closed, _ = marked(net, variables, batch, key)
        found[:] = marks(closed.jaxpr)

    with_axes(jax.eval_shape, look, net.variable_shapes(), dict(net.example), jax.random.key(0))
    return tuple(found)


def _find(net: Net) -> Iterator[Region]:
    variables, key = net.variable_shapes(), jax.random.key(0)
    cut = cut_model(net, variables, net.example, key)
    size = batch_size(net.example)
    if any(size in h.shape[1:] for h in cut.h.values()):  # is the first axis of that length the batch's?
        other = like(net.example, size + 1)
        try:
            with_axes(jax.eval_shape, lambda v, x, k: forward(net, v, x, rngs=k).h, variables, other, key)
        except TypeError as error:  # as of a graph, whose nodes are the examples
            raise ValueError(
                f'some regions have a second axis of {size}, the number of examples, and with {size + 1} examples, '
                f'which would tell which axis is theirs, the model fails ({error}); take layers of another width'
            ) from error
    order, loops = list(cut.h), {own.region: own for own in net.marks}
    programs = cut.programs()
    unlike = _unlike(programs, loops)
    shares = _shares(programs, loops, unlike)
    for name, program in programs.items():
        reached, weights, weights_size = met(program, cut.values)
        inputs = tuple(other for other in order if other in reached)
        yield Region(
            name,
            cut.h[name].shape,
            cut.h[name].dtype,
            inputs,
            weights,
            weights_size,
            output=name not in cut.phi,
            stack=loops[name].loop if name in loops else '',
            loops=loops[name].axes if name in loops else 0,
            scanned=tuple((own, how.axis) for own, how in program.scanned().items()),
            unlike=tuple(unlike.get(loops[name].loop, ())) if name in loops else (),
            shares=shares.get(name, ''),
        )


def _unlike(programs: Mapping[str, Program], loops: Mapping[str, Mark]) -> dict[str, list[int]]:
    """Outermost loop -> the depths of the loops, itself among them, whose iterations have parameters of their own."""
    found: dict[str, set[int]] = {}
    for name, mark in ((name, mark) for name, mark in loops.items() if mark.loop):
        found.setdefault(mark.loop, set()).update(how.depth for how in programs[name].scanned().values())
    return {loop: sorted(depths) for loop, depths in found.items()}


def _shares(
    programs: Mapping[str, Program], loops: Mapping[str, Mark], unlike: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """Region -> its Site, of those whose calls or iterations use the same parameters."""
    sites = {name: split_call(name)[0] for name in programs}
    uses = Counter((sites[name], path) for name, program in programs.items() for path in program.named('params'))
    again = {site for (site, _), times in uses.items() if times > 1}
    tied = {name for name, mark in loops.items() if mark.loop and not set(range(mark.axes)) <= set(unlike[mark.loop])}
    return {name: site for name, site in sites.items() if site in again or name in tied}


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
