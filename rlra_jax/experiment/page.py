"""A run, or several beside each other, as one HTML page that needs no other file."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from rlra_jax import plot
from rlra_jax.edges import Wiring
from rlra_jax.experiment import pictures
from rlra_jax.experiment.entries import flat
from rlra_jax.experiment.evaluate import batches_of, evaluate
from rlra_jax.experiment.labels import run_labels
from rlra_jax.experiment.names import named
from rlra_jax.experiment.report import ERRORS, error_table, read_result
from rlra_jax.experiment.restore import Trained, restore
from rlra_jax.plot.figure import rendered
from rlra_jax.summary import summary
from rlra_jax.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MANIFEST = ('command', 'versions', 'code_sha256', 'git', 'device', 'data_sha256')
_EXAMPLES = 250  # whose activity is drawn
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; margin: 0 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15rem 0.7rem; border-bottom: 1px solid #8886; vertical-align: top; }
th { white-space: nowrap; }
.wide { overflow-x: auto; margin: 1rem 0; }
img { max-width: 100%; height: auto; }
summary { cursor: pointer; font-weight: 600; margin: 0.5rem 0; }
@media (prefers-color-scheme: dark) { img { filter: invert(0.9) hue-rotate(180deg); } }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style></head>
<body>{body}</body></html>
"""


def page(workdirs: Sequence[epath.Path]) -> str:
    """The page of finished runs: their errors and curves, and of each what it was, where it ran, and its network.

    Raises:
      FileNotFoundError: a run is not finished, or its data set is not here.
      ValueError: a file of a run cannot be read.
    """
    results = [read_result(workdir / 'result.json') for workdir in workdirs]
    labels = run_labels(results, workdirs)
    title = labels[0] if len(labels) == 1 else f'{len(labels)} runs'
    body = [
        f'<h1>{html.escape(title)}</h1>',
        _wide(error_table(results, workdirs).html()),
        _picture(pictures.of_runs(workdirs), 'training and validation error against epoch'),
        *(part for run in zip(labels, workdirs, results, strict=True) for part in _run(*run)),
    ]
    return _PAGE.format(title=html.escape(title), style=_STYLE, body=''.join(body))


def _run(label: str, workdir: epath.Path, result: Mapping[str, Any]) -> list[str]:
    """One run by itself."""
    trained = restore(workdir)
    net, wiring = trained.experiment.net, trained.experiment.wiring
    parts = [f'<h2>{html.escape(label)}</h2>']
    if wiring is not None:
        parts.append(_picture(plot.network(net, wiring), 'regions and error pathways'))
    parts.append(_fold('Regions, synapses and what they cost', _wide(summary(net, wiring)._repr_html_())))
    parts += [_picture(figure, f'{kind} against epoch') for kind, figure in pictures.of_diagnostics(workdir).items()]
    if wiring is not None:
        histograms = _picture(_activity(trained, wiring), 'histograms, region by region')
        parts.append(_fold('Activity and targets', histograms))
    found = evaluate(trained)
    confusion = plot.confusion(found.confusion, found.names)
    told = _picture(confusion, 'what each class of the test data is taken for')
    parts.append(_fold('What is taken for what', told))
    rows = [
        (str(seed['seed']), *(f'{seed[name]:.2f}' for name in ERRORS), str(seed['best_epoch']))
        for seed in result['per_seed']
    ]
    head = ('seed', 'train error', 'validation error', 'test error', 'best epoch')
    parts.append(_fold('Seeds', _wide(Table(head, rows, head).html())))
    parts.append(_fold('Config', _wide(_entries(result['config']))))
    parts.append(_fold('Where it ran', _wide(_entries({key: result[key] for key in _MANIFEST if key in result}))))
    return parts


def _activity(trained: Trained, wiring: Wiring) -> 'Figure':
    """Of the first seed, after its last epoch, on validation data."""
    experiment, split = trained.experiment, trained.dataset.val
    first = next(batches_of(split))
    whole = np.flatnonzero((first['label'] >= 0).reshape(len(first['label']), -1).all(axis=1))
    whole = whole[: max(_EXAMPLES // first['label'][0].size, 1)]
    batch = {name: jnp.asarray(value[whole]) for name, value in first.items()}
    batch[split.reads] = trained.preprocess(batch[split.reads])
    kept = trained.run.state
    weights, state = jax.tree.map(lambda leaf: leaf[0] if leaf.ndim else leaf, (kept.weights, kept.state))
    options = named(trained.config['learner'])['options']
    return plot.activity(
        experiment.net, wiring, weights, state, batch, jax.random.key(0), options, loss=experiment.loss
    )


def _entries(tree: Mapping[str, Any]) -> str:
    return Table(('entry', 'value'), [(key, str(value)) for key, value in flat(dict(tree)).items()]).html()


def _fold(title: str, inside: str) -> str:
    return f'<details><summary>{title}</summary>{inside}</details>'


def _wide(inside: str) -> str:
    """Scrolls by itself where the page is too narrow."""
    return f'<div class="wide">{inside}</div>'


def _picture(figure: 'Figure', about: str) -> str:
    data = base64.b64encode(rendered(figure, 'svg')).decode()
    return f'<p><img alt="{html.escape(about)}" src="data:image/svg+xml;base64,{data}"></p>'
