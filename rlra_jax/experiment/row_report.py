"""What an experiment's finished rows leave: NAME.json, tables of them, and a picture."""

import csv
import io
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from rlra_jax import plot
from rlra_jax.experiment import pictures, report
from rlra_jax.tables import Table

_COLUMNS = {  # title: cell
    'row': lambda row: row['name'],
    'algorithm': lambda row: row['algorithm'] or '',
    'data': lambda row: row['dataset'],
    'learner': lambda row: row['learner'],
    'rule': lambda row: row['rule'] or '',
    'wiring': lambda row: row['wiring'] or '',
    'activation': lambda row: row['activation'],
    'batch': lambda row: str(row['config']['batch_size']),
    'train': lambda row: _spread(row, 'train_error'),
    'paper train': lambda row: _number(row['paper_train_error']),
    'test': lambda row: _spread(row, 'test_error'),
    'paper test': lambda row: _number(row['paper_test_error']),
    'test top-5': lambda row: f'{row["test_top5_error_mean"]:.2f}',
    'validation': lambda row: f'{row["val_error_mean"]:.2f}',
    'train bits': lambda row: _spread(row, 'train_bits', 3),
    'test loss': lambda row: _spread(row, 'test_loss', 3),
    'test bits': lambda row: _spread(row, 'test_bits', 3),
    'test perplexity': lambda row: _spread(row, 'test_perplexity', 3),
    'test error': lambda row: _spread(row, 'test_error'),
    'best epoch': lambda row: str(row['best_epoch']),
    'step ms': lambda row: _number(row['step_ms'], 1),
    'median cosine': lambda row: _number(_median_cosine(row)),
    'seeds': lambda row: str(row['num_seeds']),
    'epochs': lambda row: str(row['epochs']),
}
TABLES = '.md', '.csv'
_WORTH_DRAWING = 3  # epochs
_OWN = {  # the columns that only rows with such a measure have
    'error': ('train', 'paper train', 'test', 'paper test', 'test top-5', 'validation'),
    'bits': ('train bits', 'test loss', 'test bits', 'test perplexity', 'test error'),
}
_ABOUT = {  # what is told above a table that has this column
    'best epoch': report.WHAT_BEST_EPOCHS_ARE,
    'step ms': 'Step ms: mean time of a training step, which all seeds of a row take together.',
}
_OPTIONAL = ('row', 'batch', 'test top-5', 'validation', 'best epoch', 'step ms', 'median cosine')


def write_report(path: pathlib.Path, rows: Sequence[dict[str, Any]], experiment: Any) -> None:
    """NAME.json, and beside it the same as Markdown, as .csv without the nested entries, and a picture.

    In Markdown the rows that are judged by the same measure are a table. There is no picture of rows that show but that
    the program runs, with an epoch or two.
    """
    report.write_json(path, {'rows': list(rows)})
    lines = [f'# {path.stem}']
    for measure in dict.fromkeys(map(report.measure_of, rows)):
        shown = [row for row in rows if report.measure_of(row) == measure]
        lines += ['', *_table(measure, shown, getattr(experiment, 'COLUMNS', ()))]
    machines = {f'{r["device"]["kind"]}, {r["device"]["cpu_cores"]} cores, jax {r["versions"]["jax"]}' for r in rows}
    lines += ['', f'On {"; ".join(sorted(machines))}. Commands, searches and data hashes: {path.name}.']
    flat = [{key: value for key, value in row.items() if not isinstance(value, dict | list)} for row in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, dict.fromkeys(key for row in flat for key in row), lineterminator='\n')
    writer.writeheader()
    writer.writerows(flat)
    for suffix, text in zip(TABLES, ('\n'.join(lines) + '\n', table.getvalue()), strict=True):
        report.write_text(path.with_suffix(suffix), text)
    if max(row['epochs'] for row in rows) < _WORTH_DRAWING:
        return
    against = getattr(experiment, 'CURVES', ())
    figure = pictures.of_row_curves(rows, against) if against else pictures.of_rows(rows)
    for suffix in ('.png', '.svg', '.pdf'):
        plot.save(figure, path.with_suffix(suffix))


def _table(measure: report.Measure, rows: Sequence[dict[str, Any]], extra: Sequence[str]) -> list[str]:
    """Lines of Markdown: what the numbers of these rows are, and the rows, with the optional columns in `extra`."""
    others = {title for name, titles in _OWN.items() if name != measure.name for title in titles}
    titles = [title for title in _COLUMNS if title not in others and (title in extra or title not in _OPTIONAL)]
    told = [measure.what, *(about for title, about in _ABOUT.items() if title in titles)]
    cells = [tuple(_COLUMNS[title](row) for title in titles) for row in rows]
    return [' '.join(told), '', Table(tuple(titles), cells).markdown()]


def _spread(row: dict[str, Any], entry: str, digits: int = 2) -> str:
    return report.with_spread(row[f'{entry}_mean'], row[f'{entry}_sd'], row['num_seeds'], digits)


def _number(value: float | None, digits: int = 2) -> str:
    return '' if value is None else f'{value:.{digits}f}'


def _median_cosine(row: dict[str, Any]) -> float | None:
    """Over the hidden regions: of their updates with backprop's gradient; None where that is 0, as for sign units."""
    angles = report.hidden_angles(row)
    return math.cos(math.radians(statistics.median(angles))) if angles else None
