"""What all configs share. A config file is `--config=configs/NAME.py`, or `--config=configs/NAME.py:key=value,...`.

The part behind the colon is read before the config is made, so that `learner=`, `rule=` and `model=` bring entries and
hyper-parameters of their own; `--config.key=value` changes one entry afterwards. `recipe=` names one of
`recipes.RECIPES`, and stands for its entries.
"""

import ast
import itertools
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from . import models
from .recipes import RECIPES

_OPEN = (['learner'], ['optimizer'], ['synapse_optimizer'])  # entries that take keys of their own


def base(
    *, learner: str = 'rec_lra', rule: str = 'mirror', model: str = 'mlp', width: int = 256, depth: int = 5
) -> ConfigDict:
    """Every entry that a config has, with its default; the learner, its rule and the model settle which there are."""
    config = ConfigDict()
    config.dataset = 'digits'
    config.data_dir = ''
    config.bad_examples = 'error'
    config.on_nan = 'stop'
    config.train_examples = 0
    config.preprocess = {
        'contrast': False,
        'zca': False,
    }
    config.augment = {
        'pad': 0,
        'flip': False,
    }
    config.batch_size = 50
    config.epochs = 30
    config.seed = 0
    config.num_seeds = 1
    config.label_smoothing = 0.0
    config.average_flips = False
    config.checkpoint_every = 1
    config.checkpoint_steps = 0
    config.parallel = {
        'mode': 'data',
        'data': -1,
        'level': 1,
        'stage': 1,
        'microbatches': 1,
        'slices': 1,
        'across': 'data',
    }
    config.diagnostics = False
    config.model = {'name': model, 'phi': 'tanh', **models.entries(width, depth).get(model, {})}
    config.learner = {'name': learner, **_learner(learner, rule, model)}
    config.optimizer = optimizer('adam', 5e-4 if learner == 'rec_lra' else 1e-3, schedule='cosine')
    config.synapse_optimizer = optimizer(
        *_synapse_rate(learner, rule, maps=model not in models.UNITS), schedule='cosine'
    )
    return config


def _learner(name: str, rule: str, model: str) -> dict[str, Any]:
    """A learner's options that go by the model."""
    residual = 'resnet' in model
    kinds = {}
    if model == 'transformer':  # errors stay at their positions
        kinds = {'rec_lra': 'tokens', 'direct_feedback_alignment': 'token'}
    elif residual or model == 'vit':  # they average their last map
        kinds = {'rec_lra': 'pooled'}
    options = rec_lra(rule, maps=model not in models.UNITS) if name == 'rec_lra' else {}
    if options and (residual or model in ('transformer', 'vit')):
        options['normalise'] = True  # errors of several levels meet where a skip does
    return {**options, 'kind': kinds[name]} if name in kinds else options


# Between neighbouring regions a mirror hears only what it can learn: the sooner it follows W the better, and the
# response has no even part, which passes in pairs would cancel.
NEIGHBOURS = {'synapse_optimizer.learning_rate': 1.0, 'learner.mirror_antithetic': False}


def neighbours(config: ConfigDict, options: dict[str, Any], *, wiring: str) -> dict[str, Any]:
    """That wiring for rec_lra unless options name another, and NEIGHBOURS where it joins none but neighbours."""
    if config.learner.name != 'rec_lra':
        return {}
    name, through = options.get('learner.wiring', wiring), options.get('learner.through')
    near = name in ('chain', 'reverse') or (name == 'time' and through in (None, 'chain'))
    return {'learner.wiring': name, **(NEIGHBOURS if near and config.learner.rule == 'mirror' else {})}


def _synapse_rate(learner: str, rule: str, *, maps: bool) -> tuple[str, float]:
    """What trains the synapses: mirrors regress, decoders descend a loss, and Kolen-Pollack needs W's own steps."""
    if learner == 'rec_lra':
        mirror = 0.5 if maps else 0.3  # convolutions average noise over positions
        return 'sgd', mirror if rule == 'mirror' else 0.01
    return {
        'kolen_pollack': ('adam', 1e-3),
        'weight_mirror': ('sgd', 0.02),
        'target_prop': ('adam', 1e-3),
        'difference_target_prop': ('adam', 1e-3),
    }.get(learner, ('sgd', 0.01))


def optimizer(name: str, learning_rate: float, *, schedule: str = 'constant', **options: Any) -> dict[str, Any]:
    """An optimizer's entries; options are those of the optax function of that name, such as momentum."""
    return {
        'name': name,
        'learning_rate': learning_rate,
        'schedule': schedule,
        'warmup_epochs': 0.0,
        'end_rate': 0.0,
        'power': 1.0,
        'momentum': config_dict.placeholder(float),
        'weight_decay': config_dict.placeholder(float),
        'decays': 'all',
        **options,
    }


def rec_lra(rule: str, *, maps: bool = False) -> dict[str, Any]:
    """The options of rec-LRA; maps: whether regions are maps, not layers of units."""
    return {
        'wiring': 'blocks',
        'gap': config_dict.placeholder(int),
        'rule': rule,
        # A mirror of many noisy units is slow to outgrow a random start, so that of a map starts near nothing.
        'synapse_std': 1e-4 if maps and rule == 'mirror' else 0.05,
        'beta': 0.1,
        'gamma': 1.0,
        'kappa': 1.0,
        'alpha': 1.0,
        'normalise': False,
        'surrogate': config_dict.placeholder(str),
        'radius': config_dict.placeholder(float),
        'input_noise': 0.0,
        'mirror_std': 0.1,
        'mirror_every': 2,
        'mirror_antithetic': True,
    }


def row(
    name: str,
    algorithm: str | None,
    options: dict[str, Any],
    grid: list[dict[str, Any]],
    paper: tuple[float | None, float | None] = (None, None),
) -> dict[str, Any]:
    """A row of an experiment, as `launch.reproduce` takes it.

    Args:
      name: of the row in its experiment.
      algorithm: what the paper calls it, if it does.
      options: entries of the config.
      grid: entries to search over; a single point is not searched.
      paper: training and test error in %.
    """
    return {
        'name': name,
        'algorithm': algorithm,
        'options': options,
        'grid': grid,
        'paper_train_error': paper[0],
        'paper_test_error': paper[1],
    }


def rates(values: Sequence[float], *, follow: bool = False) -> list[dict[str, Any]]:
    """A grid of learning rates; follow: of synapses, too, for Kolen and Pollack's take the steps of W."""
    keys = ['optimizer.learning_rate', *(['synapse_optimizer.learning_rate'] if follow else [])]
    return [dict.fromkeys(keys, rate) for rate in values]


def parse(argument: str) -> dict[str, Any]:
    """'learner=backprop,model.phi=relu,epochs=5' -> {'learner': 'backprop', 'model.phi': 'relu', 'epochs': 5}.

    Raises:
      ValueError: a part is not key=value.
    """
    options = {}
    for part in _split(argument):
        key, equals, value = part.partition('=')
        if not equals or not key.strip():
            raise ValueError(f'what follows the colon of --config must be key=value,...; got {part!r}')
        try:
            options[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key.strip()] = value
    return options


def start(argument: str, **defaults: Any) -> tuple[ConfigDict, dict[str, Any]]:
    """(the base config for the learner, rule and model that an argument names, the argument's other options).

    Args:
      argument: what follows the colon of --config.
      **defaults: what `base` is called with where the argument names nothing else.

    Raises:
      ValueError: a learner, rule or model that is not a name, or a rule for another learner than rec_lra.
    """
    names, options = split(argument)
    named = parse(names)
    for key, name in named.items():
        if not isinstance(name, str):
            raise ValueError(f'{key} must be a name; got {name!r}')
    given = {**defaults, **named}
    if 'rule' in named and given.get('learner', 'rec_lra') != 'rec_lra':
        raise ValueError(f'only rec_lra has a rule; got {argument!r}')
    return base(**given), options


def split(argument: str) -> tuple[str, dict[str, Any]]:
    """(the part of an argument that names learner, rule and model, the other options): for configs made of others."""
    options = parse(argument)
    for key, whole in (('learner', 'learner.name'), ('rule', 'learner.rule'), ('model', 'model.name')):
        if whole in options:
            if key in options:
                raise ValueError(f'{key} and {whole} are the same; got both in {argument!r}')
            options[key] = options.pop(whole)
    names = {key: options.pop(key) for key in ('learner', 'rule', 'model') if key in options}
    return ','.join(f'{key}={name}' for key, name in names.items()), options


def override(config: ConfigDict, options: dict[str, Any]) -> ConfigDict:
    """Sets dotted keys. Those in `_OPEN` may be new: they are arguments of a learner or optimizer, which checks them.

    'recipe' is no key, but names one of `RECIPES`, whose entries are set, too, where options have no others.

    Raises:
      ValueError: a key that the config does not have, a value of another type, or an unknown recipe.
    """
    given = {key: value for key, value in options.items() if key != 'recipe'}
    _set(config, given)
    if 'recipe' in options:
        recipe = options['recipe']
        if recipe not in RECIPES:
            raise ValueError(f'unknown recipe {recipe!r}; known: {", ".join(RECIPES)}')
        entries = RECIPES[recipe](config, given)
        _set(config, {key: value for key, value in entries.items() if key not in given})
    return config


def _set(config: ConfigDict, options: dict[str, Any]) -> None:
    for key, value in options.items():
        *parents, last = key.split('.')
        node = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, ConfigDict) else None
        if parents in _OPEN and last not in node:
            with config.unlocked():
                node[last] = value
        if not isinstance(node, ConfigDict) or last not in node:
            known = sorted(node) if isinstance(node, ConfigDict) else sorted(config)
            raise ValueError(f'the config has no key {key!r}; there are {", ".join(known)}')
        try:
            node[last] = value
        except TypeError as error:
            kept = 'entries of its own' if isinstance(node[last], ConfigDict) else repr(node[last])
            raise ValueError(f'config key {key!r} holds {kept}; {value!r} is of another type') from error


def _split(argument: str) -> list[str]:
    """Splits at commas outside parentheses and quotes: tuples are values too, and strings may hold commas."""
    parts, depth, quote = [''], 0, ''
    for before, character in itertools.pairwise(f' {argument}'):
        if quote:
            quote = '' if character == quote else quote
        elif character in '\'"' and before in ' =([,':  # elsewhere it is an apostrophe
            quote = character
        else:
            depth += (character in '([') - (character in ')]')
        if character == ',' and depth == 0 and not quote:
            parts.append('')
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]
