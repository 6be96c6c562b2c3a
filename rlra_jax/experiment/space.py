"""What a study searches: rates, and error pathways, made by hand or edge by edge."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlra_jax.edges import Edge, Wiring
from rlra_jax.experiment.names import OF_WIRINGS, named
from rlra_jax.model.net import Net
from rlra_jax.recursion.options import Options as RecLRAOptions
from rlra_jax.rules import Fixed
from rlra_jax.synapses import Dense
from rlra_jax.wiring.levels import apart, leads_to, settled

if TYPE_CHECKING:
    import optuna

Options = dict[str, Any]  # dotted entries of a config, and their values
BY_HAND, FREE = 'by hand', 'edge by edge'
_WEIGHTS, _SYNAPSES = 'optimizer.learning_rate', 'synapse_optimizer.learning_rate'
_FACTOR = 5.0  # how far from the config's own a rate may lie
_EVERY = (1, 2, 4, 8)  # steps from one of a mirror's noisy passes to the next
_KINDS = ('by_shape', 'pooled', 'tokens', 'dense', 'grid', 'channel')
_MOST_GAP = 8
_DEFAULTS = {'wiring': 'blocks', 'beta': RecLRAOptions().beta}  # of a config that does not say


class Space:
    """The searched entries of a config, those of its learner rec_lra.

    Attributes:
      wirings: {name: options} of all wirings made by hand that differ on this model; the config's own comes first.
      kinds: of synapses, those that differ there; the config's own comes first.
    """

    def __init__(self, config: Mapping[str, Any], net: Net):
        self._learner = {**_DEFAULTS, **config['learner']}
        self._config = {**config, 'learner': self._learner}
        hidden, fed = apart(net)[0], leads_to(net)
        names = [region.name for region in net]
        self._sources = {  # region -> all that it may hear from
            region.name: [name for name in names if name in fed[region.name]] for region in hidden
        }
        self.kinds = list(self._distinct(net, {kind: {'learner.kind': kind} for kind in self._named_kinds()}))
        self.wirings = self._distinct(net, self._by_hand(len(hidden)))

    def _named_kinds(self) -> list[str]:
        own = self._learner.get('kind') or _KINDS[0]
        return [own, *(kind for kind in _KINDS if kind != own)]

    def _by_hand(self, hidden: int) -> dict[str, Options]:
        own = {key: self._learner.get(key) for key in ('wiring', *OF_WIRINGS) if key not in ('kind', 'rule')}
        found: dict[str, Options] = {self._learner['wiring']: own}
        found |= {name: {'wiring': name} for name in ('direct', 'chain', 'reverse') if name != own['wiring']}
        found |= {f'blocks, gap {g}': {'wiring': 'blocks', 'gap': g} for g in range(2, min(hidden, _MOST_GAP) + 1)}
        found |= {f'modules by {m}': {'wiring': 'modules', 'modules_per_block': m} for m in (1, 2, 4, 8) if m <= hidden}
        return {name: self._wired(options) for name, options in found.items()}

    def _wired(self, options: Mapping[str, Any]) -> Options:
        """Options of a wiring, and those of the config's own taken back."""
        others = {key: None for key in OF_WIRINGS if key not in ('kind', 'rule') and self._learner.get(key) is not None}
        given = {key: value for key, value in options.items() if value is not None}
        return {f'learner.{key}': value for key, value in {**others, **given}.items()}

    def _distinct(self, net: Net, candidates: Mapping[str, Options]) -> dict[str, Options]:
        """The candidates that this model can have, without those that join the same regions alike."""
        found: dict[object, str] = {}
        for name, options in candidates.items():
            edges = [self._joined(net, options | more) for more in self._probes(options)]
            if any(edges):
                found.setdefault(tuple(edges), name)
        return {name: candidates[name] for name in found.values()}

    def _joined(self, net: Net, options: Options) -> frozenset[object]:
        """What a wiring joins, by which kinds and rules; nothing if it does not fit the model."""
        with contextlib.suppress(ValueError):
            edges = self.wiring(net, options).edges
            return frozenset((e.source, e.target, _alike(e, net), e.rule, e.carries) for e in edges)
        return frozenset()

    def _probes(self, options: Options) -> Iterator[Options]:
        """What tells a candidate apart: a wiring is itself; a kind shows from afar and between neighbours."""
        if 'learner.wiring' in options:
            yield {}
        else:
            yield from (self._wired({'wiring': name}) for name in ('direct', 'chain'))

    def wiring(self, net: Net, options: Options) -> Wiring:
        """The error pathways that options make of the config's; raises ValueError where they fit no such model."""
        changes = {key.removeprefix('learner.'): value for key, value in options.items() if key.startswith('learner.')}
        made = settled(named({**self._learner, **changes})['wiring'], net)
        regions = {region.name: region for region in net}
        for edge in made.edges:
            edge.kind.size(regions[edge.source], regions[edge.target])
        return made

    def first(self) -> list[dict[str, Any]]:
        """Where a study begins: at each wiring made by hand, with the config's own rates."""
        rates = {key: _entry(self._config, key) for key in self._rates}
        every = {'learner.mirror_every': self._learner['mirror_every']} if self._mirrors else {}
        own = {'pathways': BY_HAND, 'kind': self.kinds[0], 'learner.normalise': self._normalise, **rates, **every}
        return [{'wiring': name, **own} for name in self.wirings]

    def draw(self, trial: 'optuna.Trial') -> Options:
        """What a trial changes in the config."""
        options: Options = {}
        for key in self._rates:
            own = _entry(self._config, key)
            drawn = trial.suggest_float(key, own / _FACTOR, own * _FACTOR, log=True)
            options[key] = float(f'{drawn:.3g}')  # more digits than these nobody wants to type
        if self._mirrors:
            every = sorted({*_EVERY, self._learner['mirror_every']})
            options['learner.mirror_every'] = trial.suggest_categorical('learner.mirror_every', every)
            if 'mirror_antithetic' in self._learner:  # some configs choose it by the wiring
                options['learner.mirror_antithetic'] = self._learner['mirror_antithetic']
        options['learner.normalise'] = trial.suggest_categorical('learner.normalise', (False, True))
        kind = trial.suggest_categorical('kind', self.kinds)
        options |= {'learner.kind': kind} if kind != self.kinds[0] else {}
        if trial.suggest_categorical('pathways', (BY_HAND, FREE)) == BY_HAND:  # as likely at first, be they many or few
            return self._following(options | self.wirings[trial.suggest_categorical('wiring', list(self.wirings))])
        heard = {to: trial.suggest_categorical(f'{to} hears', names) for to, names in self._sources.items()}
        edges = tuple(Edge(source, to, Dense(), Fixed()).name for to, source in heard.items())
        return self._following(options | self._wired({'wiring': 'edges', 'edges': edges}))

    def _following(self, options: Options) -> Options:
        """With W's optimizer for synapses that start as W and are to stay so; `rest` has it for them already."""
        if not self._equal or options.get('learner.rest', self._learner.get('rest')) is not None:
            return options
        theirs = self._config['synapse_optimizer']
        for key, value in self._config['optimizer'].items():
            own, same = options.get(f'optimizer.{key}', value), f'synapse_optimizer.{key}'
            if options.get(same, theirs.get(key)) != own:
                options[same] = own
        return options

    @property
    def _rates(self) -> tuple[str, ...]:
        follow = self._equal and self._learner.get('rest') is None
        return (_WEIGHTS, *([] if follow else [_SYNAPSES]), 'learner.beta')

    @property
    def _equal(self) -> bool:
        """Whether synapses start as the weights, and are to stay so."""
        return self._learner.get('rule') == 'kp' and bool(self._learner.get('kp_equal'))

    @property
    def _normalise(self) -> bool:
        return bool(self._learner.get('normalise', False))

    @property
    def _mirrors(self) -> bool:
        some = 'mirror' in (self._learner.get('rule', 'mirror'), self._learner.get('rest'))
        return some and 'mirror_every' in self._learner


def _alike(edge: Edge, net: Net) -> object:
    """Its kind, but one for all that are straight where there are no positions by which they differ."""
    positions = [region.shape[1:-1] for region in net if region.name in (edge.source, edge.target)]
    return edge.kind if edge.kind.follows or any(positions) else Dense


def _entry(config: Mapping[str, Any], key: str) -> Any:
    part, name = key.split('.')
    return config[part][name]
