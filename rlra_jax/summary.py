"""`summary`: a model's regions and error pathways as a table, with what the synapses cost beside the model itself."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from rlra_jax.edges import Edge, Wiring, called
from rlra_jax.loss import widen
from rlra_jax.model.axes import with_axes
from rlra_jax.model.capture import batch_size
from rlra_jax.model.inside import made_of
from rlra_jax.model.net import Net, require_net
from rlra_jax.model.programs import CutModel, Program, Values, cut_model
from rlra_jax.parallel.cost import modes, recommend
from rlra_jax.parallel.mesh import check_mesh
from rlra_jax.synapses.path import Along
from rlra_jax.synapses.straight import Straight
from rlra_jax.tables import Table
from rlra_jax.types import Array, PyTree
from rlra_jax.validate import require
from rlra_jax.wiring.levels import check_wiring

_NUMBERS = ('level', 'units', 'parameters', 'bytes', 'FLOPs', 'state', 'activations', 'sent')
# Parameters, bytes, FLOPs.
Cost = tuple[int, int, float]


class Summary(str):
    """Tables as a text; notebooks show them as such."""

    tables: tuple[Table, ...]

    def __new__(cls, tables: Iterable[Table]) -> 'Summary':
        own = super().__new__(cls, '\n\n'.join(map(str, tables := tuple(tables))))
        own.tables = tables
        return own

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return ''.join(table.html() for table in self.tables)


def summary(net: Net, wiring: Wiring | None = None, *, mesh: Mesh | None = None) -> Summary:
    """What a model and its error pathways are and cost; nothing is computed.

    Args:
      net: what `regions` returned.
      wiring: its error pathways; None: only the model.
      mesh: devices to train on; adds what each parallel mode would hold and send there, and which to start with. A
        model that is no linen module, or whose regions share parameters, is for data mode alone, and gets no numbers.

    Returns:
      A string, and in notebooks tables: one of regions (recursion level, - where no error comes; shape of an example,
      units, and the non-linear operations that gradients pass inside it); one of synapses (kind, rule, shape of E,
      parameters, bytes, and FLOPs of one transmission per example); and the totals of both, beside the model's own
      parameters, bytes and FLOPs of a forward pass per example. FLOPs are XLA's count.

    Raises:
      ValueError: the wiring does not fit the model; the mesh is not one of `make_mesh`, or is given without a
        wiring.
    """
    require_net(net)
    cut = cut_model(net, net.variable_shapes(), net.example, jax.random.key(0))
    if wiring is None:
        require(mesh is None, 'mesh', 'left out without a wiring', mesh)
        return Summary([_regions(net, cut), _totals(net)])
    check_wiring(wiring, net.regions)
    if mesh is not None:
        check_mesh(mesh)
    costs = _synapse_costs(net, wiring, cut)
    synapses = Table(
        ('synapse', 'kind', 'rule', 'shape', 'parameters', 'bytes', 'FLOPs'),
        [
            (name, called(edges[0].kind), called(edges[0].rule), *costs[name][:1], *_numbers(costs[name][1]))
            for level in wiring.synapses
            for name, edges in level.items()
        ],
        _NUMBERS,
    )
    tables = [_regions(net, cut, wiring), synapses, _totals(net, [cost for _, cost in costs.values()])]
    return Summary(tables if mesh is None else [*tables, _modes(net, wiring, mesh.size)])


def _regions(net: Net, cut: CutModel, wiring: Wiring | None = None) -> Table:
    made = made_of(cut)
    table = Table(
        ('region', 'shape', 'units', 'non-linear inside'),
        [
            (
                r.name,
                _dimensions(r.shape[1:]),
                f'{math.prod(r.shape[1:]):,}',
                ', '.join(made[r.name].nonlinear) or '-',
            )
            for r in net.regions
        ],
        _NUMBERS,
    )
    if wiring is None:
        return table
    level_of = wiring.level_of
    levels = ('level', *(str(level_of.get(r.name, '-')) for r in net.regions))
    head, *rows = ((name, level, *rest) for level, (name, *rest) in zip(levels, [table.head, *table.rows], strict=True))
    return Table(head, rows, _NUMBERS)


def _totals(net: Net, synapses: Sequence[Cost] = ()) -> Table:
    own = _model_cost(net)
    rows: list[tuple[str, ...]] = [('model', *_numbers(own))]
    if synapses:
        total = [sum(column) for column in zip(*synapses, strict=True)]
        ratios = (f'{a / b:.3f}' if b else '-' for a, b in zip(total, own, strict=True))
        rows = [('synapses', *_numbers(total)), *rows, ('synapses / model', *ratios)]
    return Table(('total', 'parameters', 'bytes', 'FLOPs'), rows, _NUMBERS)


def _modes(net: Net, wiring: Wiring, devices: int) -> Table:
    """What each parallel mode holds and sends, as bytes per device, and the one to start with."""
    found = modes(net, wiring, devices)
    rows = [
        (mode.name, *('-' if n is None else f'{round(n):,}' for n in (mode.state, mode.activations, mode.sent)))
        for mode in found
    ]
    notes = [f'{mode.name}: {mode.why_not}' for mode in found if mode.why_not]
    chosen = f'To start with on {devices} device{"s" * (devices > 1)}: parallel.mode={recommend(found, devices)}'
    return Table(('mode', 'state', 'activations', 'sent'), rows, _NUMBERS, (*notes, chosen))


def _synapse_costs(net: Net, wiring: Wiring, cut: CutModel) -> dict[str, tuple[str, Cost]]:
    """{synapse: (shape of E, its parameters, bytes, and FLOPs of a transmission per example)}."""
    programs, regions = cut.programs(), {region.name: region for region in net}
    found = {}
    for name, edges in ((name, edges) for level in wiring.synapses for name, edges in level.items()):
        source = regions[edges[0].source]
        e = jax.ShapeDtypeStruct(source.shape, source.dtype)
        if edges[0].kind.follows:
            E = {path: jax.eval_shape(widen, cut.values['params'][path]) for path in source.weights}
            flops = _path_flops(edges, programs[source.name], cut.values, E, e)
        else:
            target = regions[edges[0].target]
            kind: Any = edges[0].kind
            E = kind.like(source, target)
            flops = _flops(Straight(edges[0], source.shape, target.shape).send, E, e)
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


def _flops(function: Callable[..., Any], *args: Any) -> float:
    analysis = with_axes(lambda f, *args: jax.jit(f).lower(*args).cost_analysis(), function, *args)
    return (analysis or {}).get('flops', 0.0)


def _dimensions(shape: Sequence[int]) -> str:
    return ' x '.join(map(str, shape)) or '1'


def _numbers(cost: Sequence[float]) -> tuple[str, ...]:
    return tuple(f'{round(value):,}' for value in cost)
