"""How a run's best variables do on a split: errors, also class by class, what is taken for what, every prediction."""

import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax import plot
from rlra_jax.experiment import report
from rlra_jax.experiment.epoch import total_score
from rlra_jax.experiment.progress import progress
from rlra_jax.experiment.records import HostBatch, Records
from rlra_jax.experiment.restore import Trained
from rlra_jax.experiment.text import Text, measures
from rlra_jax.tables import Table
from rlra_jax.validate import require

SPLITS = ('train', 'val', 'test')
_CHUNK = 250  # examples at a time, or labels of a text
_SHOWN = 20  # classes that a printed table or the cells of a picture have room for


class Evaluation(NamedTuple):
    """What the best variables of each seed say of each example of a split, or of each character but the first."""

    seed: np.ndarray  # int [seeds]
    label: np.ndarray  # int32 [N]
    logits: np.ndarray  # float32 [seeds, N, classes]
    alphabet: str = ''  # of a text: what classes stand for

    @property
    def names(self) -> list[str]:
        """What classes are called: of a text, its characters; else their numbers will do, and there are none."""
        return [*map(repr, self.alphabet)]

    @property
    def guess(self) -> np.ndarray:
        """The most probable class: int [seeds, N]."""
        return self.logits.argmax(axis=-1)

    @property
    def confusion(self) -> np.ndarray:
        """How often class i was taken for class j, all seeds together: int [classes, classes]."""
        counts = np.zeros((self.logits.shape[-1],) * 2, int)
        np.add.at(counts, (np.broadcast_to(self.label, self.guess.shape), self.guess), 1)
        return counts


def evaluate(trained: Trained, split: str = 'test') -> Evaluation:
    """Asks a restored run about every example of a split: photographs as their centre crops, a text in windows.

    Args:
      trained: what `restore` returned.
      split: 'train', 'val' or 'test'.

    Raises:
      ValueError: there is no such split, or one of its examples cannot be read.
    """
    require(split in SPLITS, 'split', f'one of {", ".join(SPLITS)}', split)
    seeds = trained.config['seed'] + np.arange(trained.config['num_seeds'])
    labels, logits = [], []
    for batch in batches_of(getattr(trained.dataset, split)):
        counts, seen = batch['label'] >= 0, batch[trained.experiment.reads]
        labels.append(batch['label'][counts])
        told = [np.asarray(trained.predict(seen, index), np.float32)[counts] for index in range(len(seeds))]
        logits.append(np.stack(told))
    label = np.concatenate(labels).astype(np.int32)
    return Evaluation(seeds, label, np.concatenate(logits, axis=1), trained.dataset.alphabet)


def batches_of(split: Any) -> Iterator[HostBatch]:
    """Stored examples in turn, the last batch filled up by label -1, so that one program serves all."""
    if isinstance(split, Text):
        starts, count = np.asarray(split.places), max(_CHUNK // split.context, 1)
        beyond = np.full(-len(starts) % count, split.answers)  # where windows hold no label
        for at in np.concatenate([starts, beyond]).reshape(-1, count):
            yield {name: np.asarray(value) for name, value in split.at(at).items()}
        return
    places = np.full(-(-split.size // _CHUNK) * _CHUNK, -1)
    places[: split.size] = np.arange(split.size)
    order = places.reshape(-1, _CHUNK)
    if isinstance(split, Records):
        with split.batches(order) as batches:
            yield from progress(batches, 'evaluating', total=len(order), unit='batch')
        return
    image, label = np.asarray(split.image), np.asarray(split.label)
    for at in progress(order, 'evaluating', total=len(order), unit='batch'):
        yield {'image': image[at], 'label': np.where(at < 0, -1, label[at])}


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """Means over seeds with their standard deviations (0 for one seed), and a row per class; errors in %."""
    sums = jax.vmap(total_score, in_axes=(0, None))(jnp.asarray(evaluation.logits), jnp.asarray(evaluation.label))
    found: dict[str, Any] = {'examples': len(evaluation.label), 'seeds': evaluation.seed.tolist()}
    means = {name: np.asarray(total, float) / len(evaluation.label) for name, total in sums._asdict().items()}
    means |= measures(means['loss']) if evaluation.alphabet else {}
    for name, mean in means.items():
        values = mean * (100 if name.endswith('error') else 1)
        found |= {name: values.mean(), f'{name}_sd': values.std(ddof=1) if len(values) > 1 else 0.0}
    return found | {'per_class': _by_class(evaluation)}


def _by_class(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row for each class; without examples it has no error, and nothing that it is taken for."""
    rows, confusion, seeds = [], evaluation.confusion, len(evaluation.seed)
    names = evaluation.names or range(len(confusion))
    for label, counts in enumerate(confusion):
        total, wrong = counts.sum(), counts.copy()
        wrong[label] = 0
        error = 100 * float(wrong.sum() / total) if total else None
        taken_for = names[int(wrong.argmax())] if wrong.any() else None
        rows.append({'class': names[label], 'examples': int(total) // seeds, 'error': error, 'taken_for': taken_for})
    return rows


def told(summary: dict[str, Any]) -> str:
    """A summary as Markdown; of many classes only those that are hardest."""
    rows = [row for row in summary['per_class'] if row['error'] is not None]
    if len(rows) > _SHOWN:
        rows = sorted(rows, key=lambda row: -row['error'])[:_SHOWN]
    seeds = len(summary['seeds'])
    errors = [report.with_spread(summary[name], summary[f'{name}_sd'], seeds) for name in ('error', 'top5_error')]
    head = {'examples': summary['examples'], 'seeds': seeds, 'error': errors[0], 'top-5 error': errors[1]}
    head |= {name: f'{summary[name]:.4f}' for name in ('loss', 'bits', 'perplexity') if name in summary}
    classes = [
        (str(row['class']), str(row['examples']), f'{row["error"]:.2f}', _or_empty(row['taken_for'])) for row in rows
    ]
    tables = (
        Table(tuple(head), [tuple(map(str, head.values()))]),
        Table(('class', 'examples', 'error', 'most often taken for'), classes),
    )
    return '\n\n'.join(table.markdown() for table in tables)


def _or_empty(value: Any) -> str:
    return '' if value is None else str(value)


def save_predictions(evaluation: Evaluation, path: pathlib.Path) -> None:
    """An .npz file with `seed`, `label`, `guess` and `logits`, as `Evaluation` has them."""
    seed, label, logits, _ = evaluation
    np.savez(path, seed=seed, label=label, guess=evaluation.guess, logits=logits)


def plot_confusion(evaluation: Evaluation, path: pathlib.Path) -> None:
    """Writes `plot.confusion` into a file."""
    plot.save(plot.confusion(evaluation.confusion, evaluation.names), path)
