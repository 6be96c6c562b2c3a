"""Sites inside transforms that trace what they hold once: nn.scan, nn.RNN and nnx.scan, nn.jit, and nn.remat in them.

The model is traced with a mark, an operation of its own, in the place of each Site. Then the program is walked through:
where a mark comes, a function says what leaves the Site. A scan with marks is a loop. A Site in it is one region of all
iterations, which stand in an axis behind that of the examples: its h is scanned out, and what the function needs to
know of an iteration is scanned in. So the program of a loop is as large as that of one iteration.
"""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching

from rlra_jax.model.walk import CALLS, inner_programs, loop_inputs, walk
from rlra_jax.paths import join_call
from rlra_jax.types import Array, Phi, PyTree

# (region, phi, h of an iteration, what of `given` belongs to it) -> what leaves the Site
Visit = Callable[[str, Phi, Array, Any], Array]

_marked = jax.make_user_context(None)  # set while marks are made, lest traces be reused that were made without
_SITE = core.Primitive('site')


class Mark(NamedTuple):
    """A Site's call in a traced model."""

    region: str
    loop: str  # the first region of the outermost loop that holds it; '' outside of loops
    axes: int  # how many loops hold it, one in the other
    hidden: bool  # whether it lies in a transform that a forward pass cannot look into


@dataclasses.dataclass(frozen=True)
class Each:
    """A phi at each iteration of a loop, `[B, iterations, ...]`."""

    phi: Phi

    def __call__(self, h: Array) -> Array:
        return jax.vmap(self.phi, 1, 1)(h)


def mark(site: str, phi: Phi, h: Array) -> Array:
    """Phi(h), as one operation that the walk finds again."""
    if not hasattr(h, 'shape'):
        raise ValueError(f'the h of Site {site!r} must be an array; got {jax.tree.map(jnp.shape, h)}')
    return _SITE.bind(jnp.asarray(h), site=site, phi=phi)


@contextlib.contextmanager
def marking() -> Iterator[None]:
    """While models are traced with marks."""
    with _marked(True):
        yield


def marks(jaxpr: core.Jaxpr) -> list[Mark]:
    """All marks of a traced model, in the order in which they run.

    Raises:
      ValueError: one lies in a transform that is neither a loop nor runs its body once.
    """
    found = list(_search(jaxpr, (), (), False))
    count = Counter(site for site, _, _ in found)
    numbers: Counter[str] = Counter()
    regions: list[Mark] = []
    first: dict[Place, str] = {}
    for site, loops, hidden in found:
        region = join_call(site, numbers[site]) if count[site] > 1 else site
        numbers[site] += 1
        loop = first.setdefault(loops[0], region) if loops else ''
        regions.append(Mark(region, loop, len(loops), hidden))
    return regions


Place = tuple[int, ...]  # the number of an operation, in the program that it is in, and so on


def _search(
    jaxpr: core.Jaxpr, place: Place, loops: tuple[Place, ...], hidden: bool
) -> Iterator[tuple[str, tuple[Place, ...], bool]]:
    """(Site, the loops that hold it, whether it is hidden) of each mark."""
    for number, eqn in enumerate(jaxpr.eqns):
        name, own = eqn.primitive.name, (*place, number)
        if eqn.primitive is _SITE:
            yield eqn.params['site'], loops, hidden
            continue
        around = (*loops, own) if name == 'scan' else loops
        within = hidden or name in ('scan', 'jit')
        inner = [each for program in inner_programs(eqn) for each in _search(program, own, around, within)]
        if inner and name != 'scan' and name not in CALLS:
            sites = sorted({site for site, _, _ in inner})
            raise ValueError(f'Sites {sites} sit in {name}, where their h cannot be seen; scan, jit and remat are fine')
        yield from inner


def visited(
    closed: core.ClosedJaxpr, args: Sequence[Array], names: Sequence[str], visit: Visit, given: Mapping[str, PyTree]
) -> tuple[list[Array], dict[str, Array], dict[str, Phi]]:
    """Runs a model that was traced with marks.

    Args:
      closed: the trace.
      args: its arguments.
      names: the regions of its marks, from `marks`.
      visit: is asked at each Site.
      given: region -> a tree of arrays `[B, iterations..., ...]`, of which visit gets each iteration's own.

    Returns:
      (the results, region -> h, region -> phi); those of regions in loops are of all iterations.
    """
    phi: dict[str, Phi] = {}
    run = _Run(visit, phi)
    outs, h = run(closed.jaxpr, closed.consts, args, names, given, 0)
    return outs, h, {name: phi[name] for name in names}


class _Run:
    def __init__(self, visit: Visit, phi: dict[str, Phi]):
        self._visit, self._phi = visit, phi

    def __call__(
        self,
        jaxpr: core.Jaxpr,
        consts: Sequence[Array],
        args: Sequence[Array],
        names: Sequence[str],
        given: Mapping[str, PyTree],
        axes: int,
    ) -> tuple[list[Array], dict[str, Array]]:
        """(results, {region: h}); names: of the marks in this program; axes: of the loops that it is in."""
        left, seen = iter(names), {}

        def special(eqn: core.JaxprEqn, operands: list[Array]) -> list[Array] | None:
            if eqn.primitive is _SITE:
                name, phi = next(left), eqn.params['phi']
                self._phi[name] = functools.reduce(lambda phi, _: Each(phi), range(axes), phi)
                (seen[name],) = operands
                return [self._visit(name, phi, seen[name], given.get(name))]
            own = [next(left) for _ in range(_count(eqn))]
            if not own:
                return None
            run = self._scan if eqn.primitive.name == 'scan' else self._call
            outs, h = run(eqn, operands, own, {name: given[name] for name in own if name in given}, axes)
            seen.update(h)
            return outs

        return walk(jaxpr, consts, args, special), seen

    def _call(self, eqn, operands, names, given, axes):
        inner = eqn.params[CALLS[eqn.primitive.name]]
        program, consts = getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ())

        def run(*operands: Array) -> tuple[list[Array], dict[str, Array]]:
            return self(program, consts, operands, names, given, axes)

        if 'policy' in eqn.params:
            run = jax.checkpoint(run, prevent_cse=eqn.params['prevent_cse'], policy=eqn.params['policy'])
        return run(*operands)

    def _scan(self, eqn, operands, names, given, axes):
        own, (count, carries) = eqn.params, loop_inputs(eqn)
        consts, init, scanned = operands[:count], operands[count : count + carries], operands[count + carries :]
        body = own['jaxpr']

        def iterate(carry, each):
            values, given = each
            outs, h = self(body.jaxpr, body.consts, [*consts, *carry, *values], names, given, axes + 1)
            return outs[:carries], (outs[carries:], h)

        given = jax.tree.map(lambda value: jnp.moveaxis(value, 1, 0), dict(given))
        options = {name: own[name] for name in ('length', 'reverse', 'unroll')}
        carry, (results, h) = jax.lax.scan(iterate, init, (scanned, given), **options)
        return [*carry, *results], {name: jnp.moveaxis(value, 0, 1) for name, value in h.items()}


def _count(eqn: core.JaxprEqn) -> int:
    """How many marks lie in an operation."""
    return sum(1 for program in inner_programs(eqn) for _ in _search(program, (), (), False))


def _refuse(args: Any, *_: Any, site: str, **__: Any) -> Any:
    raise ValueError(f'Site {site!r} sits in a transform that hides it (vmap or grad); scan, jit and remat are fine')


_SITE.def_impl(lambda h, *, site, phi: phi(h))
_SITE.def_abstract_eval(lambda h, *, site, phi: jax.core.ShapedArray(*_result(phi, h)))
batching.primitive_batchers[_SITE] = _refuse
ad.primitive_jvps[_SITE] = _refuse


def _result(phi: Phi, h: Any) -> tuple[tuple[int, ...], Any]:
    out = jax.eval_shape(phi, jax.ShapeDtypeStruct(h.shape, h.dtype))
    return out.shape, out.dtype
