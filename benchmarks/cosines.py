"""How well mirrors find the way back through models of many kinds, and which learners train which model.

  python -m benchmarks.cosines
  python -m benchmarks.cosines --models=vit,unet   # what the file has of the others stays

The models are those of tests/architectures, small ones as others write them. Of each, 300 mirror passes on standing
weights (`wire_reverse`, 32 examples, noise of 0.03, one seed, rate 1); then the cosine of every region's update with
the gradient. And one step of every learner from its defaults: it moves every region that backprop moves, or says in an
error why not. Writes results/cosines.json.
"""

import ast
import importlib
import inspect
import pathlib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

import rlra_jax
from benchmarks.cases import replace_rows
from launch import cli
from rlra_jax import LEARNERS
from rlra_jax.experiment import report
from rlra_jax.model.gradient import loss_gradient
from rlra_jax.model.site import Site
from rlra_jax.paths import flatten
from rlra_jax.tables import Table
from rlra_jax.validate import lookup

_MODELS = flags.DEFINE_list('models', [], 'Only these; empty: all.')
_PASSES = flags.DEFINE_integer('passes', 300, 'Of mirrors.', lower_bound=1)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of cosines.json.', allow_override=True)
_SIZE, _NOISE = 32, 0.03  # attention answers to noise of 0.1 as no linear map would
_QUICKLY = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}  # compilation takes longest
_TESTS = pathlib.Path(__file__).parents[1] / 'tests'


def main(argv: list[str]) -> None:
    """Measures every model and prints a table."""
    del argv
    sys.path.append(str(_TESTS))
    zoo = importlib.import_module('architectures')
    known = dict.fromkeys([*zoo.MODELS, *zoo.OTHERS])
    wanted = [name for name in _MODELS.value or known if lookup(known, name, 'model') is None]
    path = pathlib.Path(_RESULTS.value) / 'cosines.json'
    for name in tqdm(wanted, desc='models', disable=None):
        made = zoo.make(name, _SIZE)
        row = {'case': name, **cosines(made), **learners(made)}
        measured = {'noise': _NOISE, 'passes': _PASSES.value, 'size': _SIZE, **report.provenance('')}
        replace_rows(path, name, [row], measured)
    print(table(report.read_json(path, ['rows'])['rows']))


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """What docs/own_model.md shows of cosines.json."""
    head = ('model', 'lines of marks', 'regions', 'lowest cosine', 'where', 'median', 'not trained by')
    cells = [
        (
            row['case'],
            str(row['marks']),
            str(row['regions']),
            f'{row["lowest"]:.3f}',
            f'`{row["where"]}`',
            f'{row["median"]:.3f}',
            ', '.join(row['refused']) if 'refused' in row else 'not measured',
        )
        for row in rows
    ]
    return Table(head, cells, head[1:4])


def cosines(made: Any) -> dict[str, Any]:
    """Lines of marks, regions, and of those with a gradient the lowest cosine, where that is, and the median."""
    net, batch, key = made.net, made.batch, jax.random.key(_PASSES.value)
    wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.Mirror(std=_NOISE))
    options = rlra_jax.Options(normalise=True, beta=0.01)
    learner = rlra_jax.update_fn(net, wiring, options, loss=made.loss)
    weights, state = _start(learner)
    update = jax.jit(learner.update, compiler_options=_QUICKLY)
    for i in range(_PASSES.value):
        grads, state, _ = update(weights, state, batch, jax.random.key(i))
        weights['synapses'] = jax.tree.map(jnp.subtract, weights['synapses'], grads['synapses'])
    ours, _, _ = update(weights, state, batch, key)
    gradient = jax.jit(loss_gradient, static_argnums=(0, 1), compiler_options=_QUICKLY)
    variables = {'params': weights['params'], **state.collections}
    exact = dict(_by_region(net, gradient(net, made.loss, variables, batch, key)[0]))
    found = {
        region: _cosine(own, exact[region]) for region, own in _by_region(net, ours['params']) if exact[region].any()
    }
    where = min(found, key=lambda region: found[region])
    return {
        'marks': marks(net.model),
        'regions': len(net),
        'lowest': found[where],
        'where': where,
        'median': float(np.median([*found.values()])),
    }


def learners(made: Any) -> dict[str, dict[str, str]]:
    """Which do not train the model, and why."""
    alive = [region for region, size in _sizes('backprop', made).items() if size]  # the others' units are dead
    return {'refused': {name: why for name in LEARNERS if (why := _why_not(name, made, alive))}}


def _why_not(name: str, made: Any, alive: Sequence[str]) -> str:
    """What a learner says of the model, or which of these regions it leaves without a finite update; '' if none."""
    try:
        sizes = _sizes(name, made)
    except ValueError as error:
        return f'ValueError: {error}'
    bad = [region for region in alive if not 0 < sizes[region] < np.inf]
    return f'the update of {bad} is zero or not finite' if bad else ''


def _sizes(name: str, made: Any) -> dict[str, float]:
    """{region: the largest change of its parameters} in a learner's first step."""
    learner = LEARNERS[name](made.net, loss=made.loss)
    weights, state = _start(learner)
    update = jax.jit(learner.update, compiler_options=_QUICKLY)
    grads, _, _ = update(weights, state, made.batch, jax.random.key(2))
    return {region: float(np.abs(own).max()) for region, own in _by_region(made.net, grads['params'])}


def _start(learner: rlra_jax.Learner) -> tuple[Any, Any]:
    return jax.jit(learner.init, compiler_options=_QUICKLY)(jax.random.key(1))


def _by_region(net: rlra_jax.Net, params: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """(region, its part of the parameters' tree as one row), of those that have any."""
    flat, reached = flatten(params), rlra_jax.check_cut(net)
    for region in net:
        if own := [np.ravel(leaf) for path, leaf in flat.items() if region.name in reached[path]]:
            yield region.name, np.concatenate(own).astype(np.float64)


def _cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def marks(model: Any) -> int:
    """Lines that name a Site: of a model's class, of what that uses of its file, and one for a field that holds one."""
    fields = [value for value in vars(model).values() if _is_mark(value)]
    return len(fields) + len(set(_marked_lines(type(model), set())))


def _marked_lines(made: Any, seen: set[Any]) -> Iterator[tuple[Any, int]]:
    """(a class or function, a line in it) of each name of a Site."""
    seen.add(made)
    module = inspect.getmodule(made)
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(made)))):
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        name = node.id if isinstance(node, ast.Name) else node.attr
        value = getattr(module, name, None)
        if name in ('Site', 'NNXSite') or _is_mark(value):
            yield made, node.lineno
        elif inspect.isroutine(value) or inspect.isclass(value):
            own = inspect.getmodule(value) == module and value not in seen
            yield from _marked_lines(value, seen) if own else ()


def _is_mark(value: Any) -> bool:
    return getattr(value, '__qualname__', '').startswith(Site.of.__qualname__)


if __name__ == '__main__':
    cli.run(main)
