"""The entries of a config, as files and comparisons want them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlra_jax.validate import require

# Entries of a config that say where a run happens and what it puts up with, not what it is. Examples that were left out
# show in the data's hash, and where they are met as training goes on, it must be able to go on without them.
WHERE = ('data_dir', 'bad_examples', 'on_nan', 'parallel')
LATER = ('epochs', 'checkpoint_every', 'checkpoint_steps')  # entries that may change as a run goes on
NOTED = (*LATER, 'data_dir', 'bad_examples', 'on_nan')  # those that a run's config.json has as they were last
_NEEDED = (
    *(
        'dataset',
        'data_dir',
        'bad_examples',
        'on_nan',
        'train_examples',
        'batch_size',
        'epochs',
        'seed',
        'num_seeds',
        'diagnostics',
    ),
    *('checkpoint_every', 'checkpoint_steps', 'preprocess.contrast', 'preprocess.zca', 'augment.pad', 'augment.flip'),
    *(f'parallel.{key}' for key in ('mode', 'data', 'level', 'stage', 'microbatches')),
    *('model.name', 'model.phi', 'learner.name', 'optimizer.name', 'optimizer.learning_rate'),
    *('synapse_optimizer.name', 'synapse_optimizer.learning_rate'),
)
ADDED = {  # entries that older configs lack, and what is done without them
    'average_flips': False,
    'label_smoothing': 0.0,
    'optimizer.decays': 'all',
    'synapse_optimizer.decays': 'all',
}
ON_NAN = 'stop', 'rollback'
_SWITCHES = ('diagnostics', 'preprocess.contrast', 'preprocess.zca', 'augment.flip', 'average_flips')


def check_entries(config: Any) -> None:
    """Checks that a config has the entries that every run reads; `build` and what it calls check their values.

    Raises:
      ValueError: it is no mapping, or lacks some, a switch is neither True nor False, or on_nan is no policy.
    """
    whole = config.to_dict() if hasattr(config, 'to_dict') else config
    if not isinstance(whole, Mapping):
        raise ValueError(
            f'a config must be an ml_collections.ConfigDict, or a mapping with its entries; got {type(config).__name__}'
        )
    entries = flat(dict(whole))
    missing = [name for name in _NEEDED if name not in entries]
    if missing:
        raise ValueError(
            f'the config lacks {", ".join(missing)}; `rlra-train --list_config` tells every entry with its meaning'
        )
    for name in _SWITCHES:
        value = entries.get(name, False)  # older configs lack some
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f'{name} must be True or False; got {value!r}')
    require(entries['on_nan'] in ON_NAN, 'on_nan', f'one of {", ".join(ON_NAN)}', entries['on_nan'])


def plain(config: Any) -> dict[str, Any]:
    """A config as JSON would give it back."""
    return json.loads(to_json(config.to_dict() if hasattr(config, 'to_dict') else dict(config)))


def to_json(value: Any, **options: Any) -> str:
    """JSON, in which NumPy's numbers and arrays are plain ones; options are those of json.dumps.

    Raises:
      ValueError: something in it is neither a number, a string, a list, a dictionary nor None.
    """
    return json.dumps(value, default=_plain_value, **options)


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise ValueError(f'a config must hold numbers, strings, lists, dictionaries and None; got {value!r}')


def what(config: Any) -> dict[str, Any]:
    """The part of a config that says what a run is, not where it happens."""
    return {key: value for key, value in plain(config).items() if key not in WHERE}


def differing(config: Any) -> dict[str, Any]:
    """What a run is, with dotted keys, without the entries that say what configs mean that lack them."""
    return {key: value for key, value in flat(what(config)).items() if key not in ADDED or value != ADDED[key]}


def flat(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """{'learner.name': ...}: a config with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return found
