"""`wire_time`: error pathways of a network that is unrolled over time."""

from collections import Counter
from collections.abc import Callable, Sequence

from rlra_jax.edges import Rule, Wiring
from rlra_jax.paths import split_call
from rlra_jax.rules import Mirror
from rlra_jax.types import Region
from rlra_jax.validate import lookup, require, require_count
from rlra_jax.wiring.choose import Choice, kind_by_shape, make_edge
from rlra_jax.wiring.levels import apart, leads_to, wire
from rlra_jax.wiring.wirings import edges_back

_MIRROR = Mirror()


def wire_time(
    regions: Sequence[Region],
    *,
    through: str | int = 'chain',
    step: Callable[[str], int | None] | None = None,
    kind: Choice = kind_by_shape,
    rule: Rule = _MIRROR,
) -> Wiring:
    """How far errors travel back through the steps of a loop over time.

    Inside a step, and between steps that credit may pass, errors follow the forward graph back, as in `wire_reverse`;
    so they do from the output to the regions that it reads, and to and from regions that belong to no step. A region
    that would hear none hears the output from afar. Chains of many steps want `normalise=True`, as in `wire_reverse`.

    Args:
      regions: what `regions` returned, which knows what feeds each.
      through: 'none': no error passes from a step to the one before; 'chain': it passes all; k, at least 1: the steps
        fall into windows of k, counted from the last, and it passes within a window.
      step: region's name -> its step, a whole number; None for a region that belongs to none. If None, the number of
        the call: 'cell/act#3' belongs to step 3.
      kind: as in `wire_blocks`.
      rule: as in `wire_blocks`.

    Raises:
      ValueError: another `through`, a kind or rule of another type, a model without a Site or without steps, with steps
        in a loop that JAX traces once, or one whose Sites are called some more often than others, so that calls are no
        steps.
    """
    require(step is None or callable(step), 'step', "a function of a region's name that returns its step", step)
    hidden, outputs = apart(regions)
    looped = [region.name for region in hidden if region.stack]
    if looped:
        raise ValueError(
            f'{looped} lie in a loop that JAX traces once, in which no iteration can be wired by itself: wire_reverse '
            'lets errors pass all of its steps, wire_direct none'
        )
    reach = leads_to(regions)
    steps = _steps([region.name for region in hidden], step)
    last = max(steps.values())
    size = _size(through, last - min(steps.values()) + 1)
    window = {name: (last - own) // size for name, own in steps.items()}
    near = [  # what belongs to no step, as the output, is near to all
        edge
        for edge in edges_back([*hidden, *outputs], kind, rule)
        if not {edge.source, edge.target} <= window.keys() or window[edge.source] == window[edge.target]
    ]
    hearing = {edge.target for edge in near}
    afar = [
        make_edge(output, region, kind, rule)
        for region in hidden
        if region.name not in hearing
        for output in outputs
        if output.name in reach[region.name]
    ]
    return wire(regions, afar + near)


def _size(through: str | int, steps: int) -> int:
    """The steps of a window."""
    if isinstance(through, str):
        return lookup({'none': 1, 'chain': steps}, through, 'way through time')
    require_count('through', through)
    return through


def _steps(names: Sequence[str], step: Callable[[str], int | None] | None) -> dict[str, int]:
    """Region -> its step, of those that belong to one."""
    calls = {name: split_call(name) for name in names}
    found = {name: number if step is None else step(name) for name, (_, number) in calls.items()}
    steps = {name: number for name, number in found.items() if number is not None}
    for name, number in steps.items():
        require_count(f'the step of {name!r}', number, 0)
    if not steps:
        raise ValueError(
            'the steps of a wiring through time are the calls of Sites in a loop, and this model calls none several '
            f"times; say step=, a function of a region's name. The regions are {list(names)}"
        )
    if step is None:
        often = Counter(site for site, number in calls.values() if number is not None)
        if len(set(often.values())) > 1:
            raise ValueError(
                'the calls of Sites are no steps where some are called more often than others; '
                f"say step=, a function of a region's name. Here they are called {dict(often)} times"
            )
    return steps
