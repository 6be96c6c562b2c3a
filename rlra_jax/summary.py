"""`summary`: a model's regions and error pathways as a table, with what the synapses cost beside the model itself."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from rlra_jax.edges import Edge, Wiring
from rlra_jax.model.axes import with_axes
from rlra_jax.model.capture import batch_size
from rlra_jax.model.inside import made_of
from rlra_jax.model.net import Net
from rlra_jax.model.programs import CutModel, Program, Values, cut_model
from rlra_jax.parallel.cost import modes, recommend
from rlra_jax.synapses.path import Along
from rlra_jax.synapses.straight import Straight
from rlra_jax.types import Array, PyTree
from rlra_jax.wiring.levels import check_wiring

_NUMBERS = ('level', 'units', 'parameters', 'bytes', 'FLOPs', 'state', 'activations', 'sent')
# Parameters, bytes, FLOPs.
Cost = tuple[int, int, float]


def summary(net: Net, wiring: Wiring, *, mesh: Mesh | None = None) -> str:
    """What the error pathways of a model are and cost; nothing is computed.

    Args:
      net: what `regions` returned.
      wiring: its error pathways.
      mesh: devices to train on; adds what each parallel mode would hold and send there, and which to start with.

    Returns:
      A table of regions (recursion level, - where no error comes; shape of an example, units, and the non-linear
      operations that gradients pass inside it); one of synapses (kind, rule, shape of E, parameters, bytes, and FLOPs
      of one transmission per example); and the totals of both tables, beside the model's own parameters, bytes and
      FLOPs of a forward pass per example. FLOPs are XLA's count.

    Raises:
      ValueError: the wiring does not fit the model; or a mesh is given for a model that is no linen module, or of which
        several regions share a parameter.
    """
    check_wiring(wiring, net.regions)
    level_of = {edge.target: r for r, level in enumerate(wiring.levels, start=1) for edge in level} | {wiring.output: 0}
    cut = cut_model(net, net.variable_shapes(), net.example, jax.random.key(0))
    made = made_of(cut)
    region_rows = [
        (
            r.name,
            str(level_of.get(r.name, '-')),
            _dimensions(r.shape[1:]),
            f'{math.prod(r.shape[1:]):,}',
            ', '.join(made[r.name].nonlinear) or '-',
        )
        for r in net.regions
    ]
    costs = _synapse_costs(net, wiring, cut)
    synapse_rows = [
        (name, _called(edges[0].kind), _called(edges[0].rule), *costs[name][:1], *_numbers(costs[name][1]))
        for level in wiring.synapses
        for name, edges in level.items()
    ]
    total = [sum(column) for column in zip(*(cost for _, cost in costs.values()), strict=True)]
    own = _model_cost(net)
    compared = [
        ('synapses', *_numbers(total)),
        ('model', *_numbers(own)),
        ('synapses / model', *(f'{a / b:.3f}' if b else '-' for a, b in zip(total, own, strict=True))),
    ]
    tables = [] if mesh is None else [_modes(net, wiring, mesh.size)]
    return '\n\n'.join(
        (
            _table(('region', 'level', 'shape', 'units', 'non-linear inside'), region_rows),
            _table(('synapse', 'kind', 'rule', 'shape', 'parameters', 'bytes', 'FLOPs'), synapse_rows),
            _table(('total', 'parameters', 'bytes', 'FLOPs'), compared),
            *tables,
        )
    )


def _modes(net: Net, wiring: Wiring, devices: int) -> str:
    """What each parallel mode holds and sends, as bytes per device, and the one to start with."""
    found = modes(net, wiring, devices)
    rows = [
        (mode.name, *('-' if n is None else f'{round(n):,}' for n in (mode.state, mode.activations, mode.sent)))
        for mode in found
    ]
    table = _table(('mode', 'state', 'activations', 'sent'), rows)
    notes = [f'{mode.name}: {mode.why_not}' for mode in found if mode.why_not]
    chosen = f'To start with on {devices} device{"s" * (devices > 1)}: parallel.mode={recommend(found, devices)}'
    return '\n'.join([table, *notes, chosen])


def _synapse_costs(net: Net, wiring: Wiring, cut: CutModel) -> dict[str, tuple[str, Cost]]:
    """{synapse: (shape of E, its parameters, bytes, and FLOPs of a transmission per example)}."""
    programs, regions = cut.programs(), {region.name: region for region in net}
    found = {}
    for name, edges in ((name, edges) for level in wiring.synapses for name, edges in level.items()):
        source = regions[edges[0].source]
        e = jax.ShapeDtypeStruct(source.shape, source.dtype)
        if edges[0].kind.follows:
            E = {path: cut.values['params'][path] for path in source.weights}
            flops = _path_flops(edges, programs[source.name], cut.values, E, e)
        else:
            target = regions[edges[0].target].shape
            kind: Any = edges[0].kind
            E = kind.like(source.shape, target)
            flops = _flops(Straight(edges[0], source.shape, target).send, E, e)
        shapes = [_dimensions(leaf.shape) for leaf in jax.tree.leaves(E)]
        found[name] = ' + '.join(shapes) or '-', (*_parameters(E), flops / source.shape[0])
    return found


def _path_flops(edges: Sequence[Edge], program: Program, values: Values, E: PyTree, e: Any) -> float:
    """Of a transmission alone: activities are there from the forward pass."""

    def send(values: Values, E: PyTree, e: Array) -> Any:
        return Along(edges, program, values).send(E, e)

    return max(_flops(send, values, E, e) - _flops(program.run, values), 0.0)


def _model_cost(net: Net) -> Cost:
    """(parameters, bytes, FLOPs of a forward pass per example)."""
    variables = net.variable_shapes()
    flops = _flops(lambda v, batch, key: net.apply(v, batch, key)[0], variables, dict(net.example), jax.random.key(0))
    return *_parameters(variables['params']), flops / batch_size(net.example)


def _parameters(tree: PyTree) -> tuple[int, int]:
    """(number, bytes)."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _flops(function: Callable, *args: Any) -> float:
    analysis = with_axes(lambda f, *args: jax.jit(f).lower(*args).cost_analysis(), function, *args)
    return (analysis or {}).get('flops', 0.0)


def _called(choice: Any) -> str:
    """A kind or a rule, with what is not as by default: 'Grid(cells=8)', 'Mirror'."""
    own = {f.name: getattr(choice, f.name) for f in dataclasses.fields(choice)}
    given = ', '.join(f'{f.name}={own[f.name]!r}' for f in dataclasses.fields(choice) if own[f.name] != f.default)
    return type(choice).__name__ + (f'({given})' if given else '')


def _dimensions(shape: Sequence[int]) -> str:
    return ' x '.join(map(str, shape)) or '1'


def _numbers(cost: Sequence[float]) -> tuple[str, ...]:
    return tuple(f'{round(value):,}' for value in cost)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry; numbers stand right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    right = [name in _NUMBERS for name in head]

    def line(row: Sequence[str]) -> str:
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return '  '.join(cells).rstrip()

    return '\n'.join([line(head), '  '.join('-' * width for width in widths), *map(line, rows)])
