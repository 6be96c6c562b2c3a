"""What to call runs beside each other: their learners, and the fewest entries that tell those of one learner apart."""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rlra_jax.experiment.entries import ADDED, flat, what

# The entries that tell most, which are taken first where several would do.
_FIRST = (
    *('dataset', 'model.name', 'learner.rule', 'learner.wiring', 'learner.modules_per_block', 'learner.kind'),
    *('model.phi', 'batch_size', 'optimizer.learning_rate'),
)
_LAST = 'checkpoint_every', 'checkpoint_steps', 'diagnostics'  # those that change nothing of what is learnt
_MOST = 4  # keys of a label, if so many can do


def run_labels(results: Sequence[Mapping[str, Any]], workdirs: Sequence[str | os.PathLike[str]] = ()) -> list[str]:
    """A label for each result, or row of a table: 'rec_lra rule=kp gap=2'.

    Args:
      results: with 'learner' and 'config'; their configs may be of several models and data sets.
      workdirs: their folders, if they have one each: what configs leave equal, folders tell apart.
    """
    learners = [str(result['learner']) for result in results]
    told = [''] * len(results)
    for learner in dict.fromkeys(learners):
        alike = [i for i, other in enumerate(learners) if other == learner]
        for i, own in zip(alike, _told_apart([ADDED | flat(what(results[i]['config'])) for i in alike]), strict=True):
            told[i] = own
    labels = [' '.join(filter(None, pair)) for pair in zip(learners, told, strict=True)]
    if len(set(labels)) == len(labels) or not workdirs:
        return labels
    folders = _shortest_tails([pathlib.PurePath(workdir).parts for workdir in workdirs])
    pairs = zip(labels, folders, strict=True)
    return [f'{label} {folder}' if labels.count(label) > 1 else label for label, folder in pairs]


def _told_apart(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """'key=value ...' of each config, with the fewest keys that tell apart all that differ."""

    def values(key: str) -> list[str]:
        return [_short(config.get(key)) for config in configs]

    def kinds(keys: Sequence[str]) -> int:
        return len(set(zip(*map(values, keys), strict=True)))

    differing = [key for key in dict.fromkeys(key for config in configs for key in config) if kinds([key]) > 1]
    differing.sort(key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST) + (key in _LAST))
    subsets = (keys for size in range(_MOST) for keys in itertools.combinations(differing, size + 1))
    chosen = next((keys for keys in subsets if kinds(keys) == kinds(differing)), differing)
    names = {key: _name(key, differing) for key in chosen}
    given = ({key: value for key, value in config.items() if value is not None} for config in configs)
    return [' '.join(f'{name}={_short(own[key])}' for key, name in names.items() if key in own) for own in given]


def _name(key: str, others: Sequence[str]) -> str:
    """The last part of a key, or all of it where that would be another's name too; 'model' of 'model.name'."""
    if key.endswith('.name'):
        return key.removesuffix('.name')
    short = key.rpartition('.')[2]
    return key if [other.rpartition('.')[2] for other in others].count(short) > 1 else short


def _short(value: Any) -> str:
    """'5x256' of [256, 256, 256, 256, 256]."""
    if isinstance(value, list) and value:
        return f'{len(value)}x{value[0]}' if len(set(value)) == 1 and len(value) > 1 else '-'.join(map(str, value))
    return f'{value:g}' if isinstance(value, float) else str(value)


def _shortest_tails(folders: Sequence[Sequence[str]]) -> list[str]:
    """The last part of each path, or as many as it takes for them to differ."""
    deepest = max(map(len, folders))
    count = next((n for n in range(1, deepest) if len({tuple(f[-n:]) for f in folders}) == len(folders)), deepest)
    return ['/'.join(folder[-count:]) for folder in folders]
