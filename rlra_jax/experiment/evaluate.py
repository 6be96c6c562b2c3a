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
from rlra_jax.validate import require

SPLITS = ('train', 'val', 'test')
_CHUNK = 250  # examples at a time
_SHOWN = 20  # classes that a printed table or the cells of a picture have room for


class Evaluation(NamedTuple):
    """What the best variables of each seed say of each example of a split."""

    seed: np.ndarray  # int [seeds]
    label: np.ndarray  # int32 [N]
    logits: np.ndarray  # float32 [seeds, N, classes]

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
    """Asks a restored run about every example of a split; photographs as their centre crops.

    Args:
      trained: what `restore` returned.
      split: 'train', 'val' or 'test'.

    Raises:
      ValueError: there is no such split, or one of its examples cannot be read.
    """
    require(split in SPLITS, 'split', f'one of {", ".join(SPLITS)}', split)
    seeds = trained.config['seed'] + np.arange(trained.config['num_seeds'])
    labels, logits = [], []
    for batch in _batches(getattr(trained.dataset, split)):
        counts = batch['label'] >= 0
        labels.append(batch['label'][counts])
        told = [np.asarray(trained.predict(batch['image'], index), np.float32)[counts] for index in range(len(seeds))]
        logits.append(np.stack(told))
    return Evaluation(seeds, np.concatenate(labels).astype(np.int32), np.concatenate(logits, axis=1))


def _batches(split: Any) -> Iterator[HostBatch]:
    """Stored examples in turn, the last batch filled up by label -1, so that one program serves all."""
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
    for name, total in sums._asdict().items():
        values = np.asarray(total, float) / len(evaluation.label) * (100 if name.endswith('error') else 1)
        found |= {name: values.mean(), f'{name}_sd': values.std(ddof=1) if len(values) > 1 else 0.0}
    return found | {'per_class': _by_class(evaluation.confusion, len(evaluation.seed))}


def _by_class(confusion: np.ndarray, seeds: int) -> list[dict[str, Any]]:
    """One row for each class; without examples it has no error, and nothing that it is taken for."""
    rows = []
    for label, counts in enumerate(confusion):
        total, wrong = counts.sum(), counts.copy()
        wrong[label] = 0
        error = 100 * float(wrong.sum() / total) if total else None
        taken_for = int(wrong.argmax()) if wrong.any() else None
        rows.append({'class': label, 'examples': int(total) // seeds, 'error': error, 'taken_for': taken_for})
    return rows


def told(summary: dict[str, Any]) -> str:
    """A summary as Markdown; of many classes only those that are hardest."""
    rows = [row for row in summary['per_class'] if row['error'] is not None]
    if len(rows) > _SHOWN:
        rows = sorted(rows, key=lambda row: -row['error'])[:_SHOWN]
    seeds = len(summary['seeds'])
    errors = [report.with_spread(summary[name], summary[f'{name}_sd'], seeds) for name in ('error', 'top5_error')]
    return '\n'.join(
        [
            '| examples | seeds | error | top-5 error | loss |',
            '| --- | --- | --- | --- | --- |',
            f'| {summary["examples"]} | {seeds} | {errors[0]} | {errors[1]} | {summary["loss"]:.4f} |',
            '',
            '| class | examples | error | most often taken for |',
            '| --- | --- | --- | --- |',
            *(
                f'| {row["class"]} | {row["examples"]} | {row["error"]:.2f} | {_or_empty(row["taken_for"])} |'
                for row in rows
            ),
        ]
    )


def _or_empty(value: int | None) -> str:
    return '' if value is None else str(value)


def save_predictions(evaluation: Evaluation, path: pathlib.Path) -> None:
    """An .npz file with `seed`, `label`, `guess` and `logits`, as `Evaluation` has them."""
    np.savez(path, guess=evaluation.guess, **evaluation._asdict())


def plot_confusion(confusion: np.ndarray, path: pathlib.Path) -> None:
    """Writes `plot.confusion` into a file."""
    plot.save(plot.confusion(confusion), path)
