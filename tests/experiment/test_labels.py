import json
import pathlib

import pytest

from rlra_jax.experiment.labels import run_labels

RESULTS = pathlib.Path(__file__).parents[2] / 'results'


def run(learner, model='mlp', **options):
    rate = options.pop('rate', 0.1)
    config = {'data_dir': str(options), 'model': {'name': model}, 'optimizer': {'learning_rate': rate}}
    return {'learner': learner, 'config': {**config, 'learner': {'name': learner, **options}}}


def test_runs_of_one_learner_are_told_apart_by_what_differs():
    results = [run('rec_lra', rule='kp', beta=0.1), run('rec_lra', rule='fixed', beta=0.1), run('backprop')]
    assert run_labels(results) == ['rec_lra rule=kp', 'rec_lra rule=fixed', 'backprop']


def test_the_fewest_entries_do_and_those_that_tell_most():
    """Each rule brings a rate of its own; a longer list is one width and how often."""
    rules = [run('rec_lra', rule=rule, std=std) for rule, std in (('kp', 0.1), ('mirror', 0.2), ('fixed', 0.3))]
    assert run_labels(rules) == ['rec_lra rule=kp', 'rec_lra rule=mirror', 'rec_lra rule=fixed']
    grid = [run('rec_lra', rule=rule, beta=beta) for rule in ('kp', 'mirror') for beta in (0.1, 1.0)]
    assert run_labels(grid)[:2] == ['rec_lra rule=kp beta=0.1', 'rec_lra rule=kp beta=1']
    shapes = [run('backprop', widths=widths) for widths in ([64, 64, 64], [64, 32])]
    assert run_labels(shapes) == ['backprop widths=3x64', 'backprop widths=64-32']


def test_entries_that_change_nothing_tell_nothing():
    """Older configs lack some; of others the epochs at which a run is saved come last."""
    older, newer = run('rec_lra', beta=0.1), run('rec_lra', beta=0.5)
    for entries in ({'average_flips': False}, {'checkpoint_every': 10}, {'diagnostics': True}):
        told = {**newer, 'config': {**entries, **newer['config']}}
        assert run_labels([told, older]) == ['rec_lra beta=0.5', 'rec_lra beta=0.1']


def test_names_of_two_entries_are_told_in_full():
    both = [
        run('backprop', model=m, learning_rate=r, rate=2 * r) for m, r in (('mlp', 1.0), ('mlp', 3.0), ('cnn', 3.0))
    ]
    assert run_labels(both) == [
        'backprop model=mlp optimizer.learning_rate=2',
        'backprop model=mlp optimizer.learning_rate=6',
        'backprop model=cnn optimizer.learning_rate=6',
    ]


def test_equal_configs_are_told_apart_by_their_folders():
    results = [run('backprop'), run('backprop'), run('rec_lra')]
    assert run_labels(results, ['/runs/a', '/runs/b', '/runs/c']) == ['backprop a', 'backprop b', 'rec_lra']
    assert run_labels(results[:2], ['/x/a/run', '/x/b/run']) == ['backprop a/run', 'backprop b/run']


@pytest.mark.parametrize('path', [RESULTS / 'mlp.json', *sorted(RESULTS.rglob('table*.json'))], ids=lambda p: p.stem)
def test_a_picture_tells_its_rows_apart(path):
    rows = json.loads(path.read_text())['rows']
    for dataset in {row['dataset'] for row in rows}:
        shown = [row for row in rows if row['dataset'] == dataset]
        labels = run_labels(shown)
        assert len(set(labels)) == len(shown)
        assert max(map(len, labels)) < 60
