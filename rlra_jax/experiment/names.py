"""What configs say in words: the wirings, kinds of synapses and rules of rec-LRA by name."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlra_jax.edges import Edge, Kind, Rule, Wiring
from rlra_jax.nn import ACTIVATIONS
from rlra_jax.recursion.options import Options
from rlra_jax.rules import Dx, Fixed, Hebbian, KolenPollack, Mirror
from rlra_jax.synapses import Channel, ConvTranspose, Dense, Grid, Path, Token
from rlra_jax.types import Region
from rlra_jax.validate import lookup, require
from rlra_jax.wiring.choose import Choice, kind_by_shape, kind_pooled, kind_tokens, make_edge
from rlra_jax.wiring.levels import wire
from rlra_jax.wiring.time import wire_time
from rlra_jax.wiring.wirings import wire_blocks, wire_chain, wire_direct, wire_modules, wire_reverse

_MIRROR = Mirror()


def wire_edges(
    regions: Sequence[Region], *, edges: Sequence[str] = (), kind: Choice = kind_by_shape, rule: Rule = _MIRROR
) -> Wiring:
    """Edges by name, as those of a summary are: ('output->hidden_2', 'hidden_2->hidden_1').

    Raises:
      ValueError: no sequence of names, an unknown edge, or what `wire` refuses.
    """
    fits = isinstance(edges, Sequence) and not isinstance(edges, str) and all(isinstance(name, str) for name in edges)
    require(fits and edges, 'edges', "a sequence of names of edges, such as ('output->hidden_1',)", edges)
    pairs = {Edge(a.name, b.name, Dense(), rule).name: (a, b) for a in regions for b in regions}
    ends = [lookup(pairs, name, 'edge') for name in edges]
    return wire(regions, [make_edge(source, target, kind, rule) for source, target in ends])


WIRINGS: dict[str, Callable[..., Wiring]] = {
    'blocks': wire_blocks,
    'chain': wire_chain,
    'direct': wire_direct,
    'edges': wire_edges,
    'modules': wire_modules,
    'reverse': wire_reverse,
    'time': wire_time,
}
RULES: dict[str, Callable[..., Rule]] = {
    'dx': Dx,
    'fixed': Fixed,
    'hebbian': Hebbian,
    'kp': KolenPollack,
    'mirror': Mirror,
}
KINDS: dict[str, Kind | Callable[[Region, Region], Kind]] = {
    'by_shape': kind_by_shape,
    'channel': Channel(),
    'conv_transpose': ConvTranspose(),
    'dense': Dense(),
    'grid': Grid(),
    'path': Path(),
    'pooled': kind_pooled,
    'token': Token(),
    'tokens': kind_tokens,
}
OF_WIRINGS = (  # entries that say more of them
    'gap',
    'block',
    'modules_per_block',
    'overlap',
    'through',
    'edges',
    'kind',
    'rule',
    'rest',
    'sends',
)


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's entry of a config with objects in the place of names.

    Of rec_lra the entries wiring, gap, block, modules_per_block, overlap, through, edges, kind, rule, rest, sends,
    kp_equal and mirror_std, mirror_every, mirror_antithetic become one, 'wiring', a function of the net; of it and
    lra_e the hyper-parameters become one, 'options'. Of every learner a kind of synapse and a surrogate may be named.

    Raises:
      ValueError: an unknown name or entry, or an entry that the wiring takes none of.
    """
    given = dict(options)
    if isinstance(given.get('surrogate'), str):
        given['surrogate'] = lookup(ACTIVATIONS, given['surrogate'], 'surrogate')
    if isinstance(given.get('kind'), str):
        given['kind'] = lookup(KINDS, given['kind'], 'kind of synapse')
    if given.get('name') not in ('rec_lra', 'lra_e'):
        return given
    by_name = given['name'] == 'rec_lra' and not isinstance(given.get('wiring'), Wiring)
    if by_name:
        given = _wired(given)
    fields = [field.name for field in dataclasses.fields(Options)]
    own = Options(**{name: given.pop(name) for name in fields if name in given})
    unknown = sorted(given.keys() - {'name', 'wiring', 'synapse_std', 'allow'})
    if unknown:
        known = [*fields, 'synapse_std', 'allow', *(['wiring', *OF_WIRINGS] if by_name else [])]
        raise ValueError(f'learner {given["name"]!r} has no option {unknown}; it takes {known}')
    return {**given, 'options': own}


def _wired(given: dict[str, Any]) -> dict[str, Any]:
    found = {key: given.pop(key) for key in OF_WIRINGS if key in given}
    found = {key: value for key, value in found.items() if value is not None}
    options = {
        prefix: {key: given.pop(prefix + key) for key in keys if prefix + key in given}
        for prefix, keys in (('mirror_', ('std', 'every', 'antithetic')), ('kp_', ('equal',)))
    }
    found.setdefault('rule', 'mirror')
    equal = options['kp_'].get('equal', False)
    require(not equal or 'kp' in (found['rule'], found.get('rest')), 'kp_equal', "left out but with rule='kp'", equal)
    for key in found.keys() & {'rule', 'rest'}:
        found[key] = _rule(key, found[key], options)
    name = given.pop('wiring', 'blocks')
    make = lookup(WIRINGS, name, 'wiring')
    for key in found.keys() - inspect.signature(make).parameters.keys():
        require(False, key, f'left out, as the wiring {name!r} takes none', found[key])
    wiring: Callable[[Sequence[Region]], Wiring] = functools.partial(make, **found)
    return {**given, 'wiring': wiring}


def _rule(key: str, name: str, options: Mapping[str, Mapping[str, Any]]) -> Rule:
    """A rule by name, with those of the options {start of an entry's name: {rest of it: value}} that are its own."""
    rule, prefix = lookup(RULES, name, key), f'{name}_'
    try:
        return rule(**options.get(prefix, {}))
    except ValueError as error:  # it begins with the name of what is wrong
        raise ValueError(prefix + str(error)) from error
