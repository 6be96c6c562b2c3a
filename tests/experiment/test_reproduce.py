import csv
import importlib
import json
import pathlib
import re
import types

import pytest

from configs import cifar10, common, digits, mlp, sequences, table1, table2a
from rlra_jax.experiment import pictures, report
from rlra_jax.experiment import reproduce as reproduce_module
from rlra_jax.experiment.entries import plain
from rlra_jax.experiment.metrics import MetricsLog
from rlra_jax.experiment.nonfinite import NonFiniteError
from rlra_jax.experiment.reproduce import reproduce
from rlra_jax.experiment.text import measures_of
from rlra_jax.experiment.workdir import own_workdir
from rlra_jax.learners import LEARNERS

RESULTS = pathlib.Path(__file__).parents[2] / 'results'


def tiny_experiment(curves=()):
    """Two rows of one family, searched over a rate that can't learn and one that can."""

    def get_config(argument):
        small = 'model.widths=(32,),epochs=3,num_seeds=2,checkpoint_every=9,learner.rule=fixed'
        options = common.parse(argument) | common.parse(small)
        if 'seeds' in options:
            options['num_seeds'] = options.pop('seeds')
        return digits.get_config(','.join(f'{key}={value}' for key, value in options.items()))

    def rows():
        grid = [{'optimizer.learning_rate': rate} for rate in (1e-9, 1e-2)]
        return [
            common.row(f'digits-{phi}', algorithm, {'dataset': 'digits', 'model.phi': phi}, grid, paper)
            for phi, algorithm, paper in (('tanh', 'rLRA', (0.5, 1.5)), ('relu', None, (None, None)))
        ]

    small = {'seeds': 1}
    return types.SimpleNamespace(get_config=get_config, rows=rows, SEARCH=small, QUICK=small, CURVES=curves)


def test_a_row_may_be_searched_in_its_own_way(tmp_path):
    experiment = tiny_experiment()
    own = [{**row, 'search': {'seed': 5}} for row in experiment.rows()]
    experiment.rows = lambda: own
    reproduce('tiny', experiment, results=tmp_path, runs=tmp_path / 'runs', select=lambda row: row == 'digits-tanh')
    configs = [json.loads(path.read_text()) for path in (tmp_path / 'runs').glob('*/config.json')]
    assert sorted((config['seed'], config['num_seeds']) for config in configs) == [(0, 2), (5, 1), (5, 1)]


def test_a_report_that_was_stopped_is_made_whole(tmp_path, monkeypatch):
    """From NAME.json, which is written first; and a folder that cannot be written is told before training."""
    experiment = tiny_experiment()
    folders = {'results': tmp_path / 'results', 'runs': tmp_path / 'runs'}
    reproduce('tiny', experiment, **folders, select=lambda row: row == 'digits-tanh', quick=True)
    whole = (tmp_path / 'results' / 'tiny.md').read_text()
    (tmp_path / 'results' / 'tiny.md').unlink()
    reproduce('tiny', experiment, **folders, select=lambda row: row == 'digits-tanh', quick=True)
    assert (tmp_path / 'results' / 'tiny.md').read_text() == whole
    monkeypatch.setattr(reproduce_module, 'train', lambda *_, **__: pytest.fail('trained'))
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file cannot be written'):
        reproduce('tiny', experiment, results=tmp_path / 'file', runs=tmp_path / 'runs', select=lambda row: True)


def test_searches_on_validation_trains_and_reports(tmp_path, monkeypatch):
    experiment = tiny_experiment()
    folders = {'results': tmp_path / 'results', 'runs': tmp_path / 'runs'}
    rows = reproduce('tiny', experiment, **folders, select=lambda row: row == 'digits-tanh')
    assert [row['name'] for row in rows] == ['digits-tanh']
    (row,) = json.loads((tmp_path / 'results' / 'tiny.json').read_text())['rows']
    assert row == rows[0]
    assert [point['optimizer.learning_rate'] for point in row['search']] == [1e-9, 1e-2]
    assert row['search'][1]['val_error'] < row['search'][0]['val_error']
    assert row['config']['optimizer']['learning_rate'] == 1e-2
    assert row['command'].endswith(
        '--config=configs/tiny.py:dataset=digits,model.phi=tanh,optimizer.learning_rate=0.01'
    )
    assert (row['seeds'], row['epochs'], row['paper_test_error']) == ([0, 1], 3, 1.5)
    assert row['test_error_sd'] > 0

    # The same call again trains the missing row alone, and keeps the experiment's order.
    trained = []
    original = reproduce_module.train
    monkeypatch.setattr(reproduce_module, 'train', lambda c, w, d: trained.append(c.model.phi) or original(c, w, d))
    rows = reproduce('tiny', experiment, **folders)
    assert [row['name'] for row in rows] == ['digits-tanh', 'digits-relu']
    assert trained == ['relu'] * 3
    markdown = (tmp_path / 'results' / 'tiny.md').read_text()
    assert '| rLRA | digits | rec_lra | fixed | blocks | tanh |' in markdown
    assert (tmp_path / 'results' / 'tiny.png').read_bytes().startswith(b'\x89PNG')

    table = list(csv.DictReader((tmp_path / 'results' / 'tiny.csv').read_text().splitlines()))
    assert [row['name'] for row in table] == ['digits-tanh', 'digits-relu']
    assert float(table[0]['test_error_mean']) == rows[0]['test_error_mean']
    assert (table[0]['paper_test_error'], table[1]['paper_test_error']) == ('1.5', '')


def test_rows_that_the_experiment_no_longer_has_stay(tmp_path, caplog):
    """At the end of the file, which is not to lose what took hours to train."""
    experiment, path = tiny_experiment(), tmp_path / 'tiny.json'
    row = json.loads((RESULTS / 'quick' / 'table2b.json').read_text())['rows'][0]
    path.write_text(json.dumps({'rows': [{**row, 'name': 'renamed'}]}))
    folders = {'results': tmp_path, 'runs': tmp_path / 'runs'}
    assert reproduce('tiny', experiment, **folders, select=lambda row: False) == []  # .md and .csv are missing
    assert f"kept, though tiny has no such rows: ['renamed']; remove them from {path} to drop them" in caplog.text
    (rebuilt,) = json.loads(path.read_text())['rows']
    assert rebuilt == {**row, 'name': 'renamed'}
    (trained,) = reproduce('tiny', experiment, **folders, select='digits-tanh'.__eq__, quick=True)
    assert [row['name'] for row in json.loads(path.read_text())['rows']] == ['digits-tanh', 'renamed']
    assert trained['step_ms'] > 0


def test_rows_that_would_not_be_trained_so_today_are_named(tmp_path, caplog):
    experiment = tiny_experiment()
    config = experiment.get_config('dataset=digits,model.phi=tanh,optimizer.learning_rate=0.01').to_dict()
    row = {**dict.fromkeys(reproduce_module._KEYS), 'name': 'digits-tanh', 'config': config}
    path = tmp_path / 'tiny.json'
    for suffix in ('.md', '.csv'):
        path.with_suffix(suffix).write_text('as before')

    def warned(**changes):
        caplog.clear()
        path.write_text(json.dumps({'rows': [{**row, 'code_sha256': report.code_sha256(), **changes}]}))
        reproduce('tiny', experiment, results=tmp_path, runs=tmp_path, select=lambda name: name == 'digits-tanh')
        return caplog.text

    assert not warned()
    told = warned(code_sha256='other')
    assert f"kept, though other code made them: ['digits-tanh']; remove them from {path} to train anew" in told
    folder = own_workdir(tmp_path, config)
    folder.mkdir()
    assert f"remove them from {path}, and the folders ['{folder}'], to train anew" in warned(code_sha256='other')
    assert not warned(code_sha256='other', versions={'python': '3.99.0'})  # which hashes the same code otherwise
    assert 'kept, though other code made' in warned(code_sha256=None, versions={'python': '3.99.0'})
    assert "kept, though another config made them: ['digits-tanh']" in warned(config={**config, 'epochs': 9})
    assert not warned(config={**config, 'learner': {**config['learner'], 'gap': 2}})
    del row['algorithm']
    with pytest.raises(ValueError, match=r"tiny\.json lacks \['algorithm'\]: remove 'digits-tanh' there"):
        warned()


def test_a_point_of_the_search_may_diverge(tmp_path, monkeypatch):
    def diverge(config, *rest):
        if config.optimizer.learning_rate == 1e-9:
            raise NonFiniteError('diverged')
        return original(config, *rest)

    original = reproduce_module.train
    monkeypatch.setattr(reproduce_module, 'train', diverge)
    (row,) = reproduce('tiny', tiny_experiment(), results=tmp_path, runs=tmp_path / 'runs', select='digits-tanh'.__eq__)
    assert [point['val_error'] is None for point in row['search']] == [True, False]


def test_a_row_that_diverges_does_not_keep_others_from_training(tmp_path, monkeypatch):
    def diverge(config, *rest):
        if config.model.phi == 'tanh':
            raise NonFiniteError('its loss is NaN')
        return original(config, *rest)

    original = reproduce_module.train
    monkeypatch.setattr(reproduce_module, 'train', diverge)
    for _ in range(2):
        with pytest.raises(NonFiniteError, match='row digits-tanh diverged: its loss is NaN'):
            reproduce('tiny', tiny_experiment(), results=tmp_path, runs=tmp_path / 'runs', quick=True)
    assert [row['name'] for row in json.loads((tmp_path / 'tiny.json').read_text())['rows']] == ['digits-relu']


def test_data_is_read_as_each_row_says(tmp_path, monkeypatch):
    """Rows of one source share it; others have their own."""
    asked = []
    original = reproduce_module.load
    monkeypatch.setattr(reproduce_module, 'load', lambda *source: asked.append(source) or original(*source))
    experiment = tiny_experiment()
    rows = experiment.rows()
    rows = [*rows, {**rows[0], 'name': 'skips', 'options': {**rows[0]['options'], 'bad_examples': 'skip'}}]
    experiment.rows = lambda: rows
    reproduce('tiny', experiment, results=tmp_path, runs=tmp_path / 'runs', quick=True)
    assert asked == [('digits', None, 'error'), ('digits', None, 'skip')]


def test_texts_are_judged_by_their_loss_and_have_a_table_of_their_own(tmp_path, monkeypatch):
    """One rate has more errors than the others, and a lower loss."""

    def pretend(config, workdir, dataset):
        first, text = config.optimizer.learning_rate == 1e-3, config.dataset == 'tiny_shakespeare'
        told = dict.fromkeys((*report.ERRORS, *report.TOP5_ERRORS), 40.0 if first else 30.0)
        losses = dict.fromkeys(report.LOSSES, 1.0 if first else 2.0)
        seeds = [{'seed': s, **told, **(losses | measures_of(losses) if text else {}), 'best_epoch': 3} for s in (0, 1)]
        watched = {'watched': {'step_seconds': 0.25}} if text else {}  # older runs have none
        known = {'per_seed': seeds, 'epochs': 3, 'config': plain(config), **watched}
        return {**report.summarise(seeds), **known, **report.provenance('')}

    monkeypatch.setattr(reproduce_module, 'train', pretend)
    monkeypatch.setattr(reproduce_module, 'load', lambda *_: None)
    rows = reproduce('both', sequences, results=tmp_path, runs=tmp_path / 'runs', select=re.compile('.*-BP').fullmatch)
    assert [(row['dataset'], row['config']['optimizer']['learning_rate']) for row in rows] == [
        ('mnist', 3e-3),
        ('tiny_shakespeare', 1e-3),
    ]
    assert [row['step_ms'] for row in rows] == [None, 250.0]
    assert [[set(point) & {'val_error', 'val_bits'} for point in row['search']] for row in rows] == [
        [{'val_error'}] * 3,
        [{'val_bits'}] * 3,
    ]
    _, told, images, judged, texts, _ = (tmp_path / 'both.md').read_text().split('\n\n')
    assert 'the lowest validation error;' in told
    assert 'the lowest validation loss;' in judged
    assert '| 30.00 ± 0.00 |' in images
    assert '| mnist-BP | BP |' in images
    assert '| train bits | test loss | test bits | test perplexity | test error |' in texts
    assert '| 1.443 ± 0.000 | 1.000 ± 0.000 | 1.443 ± 0.000 | 2.718 ± 0.000 | 40.00 ± 0.00 |' in texts
    assert [axis.get_xlabel() for axis in pictures.of_rows(rows).axes] == ['test error (%)', 'test bits per character']


@pytest.mark.full
def test_rows_that_another_process_reports_meanwhile_stay(tmp_path, monkeypatch):
    def meanwhile(config, *rest):
        (tmp_path / 'tiny.json').write_text(json.dumps({'rows': [theirs]}))
        return original(config, *rest)

    folders = {'results': tmp_path, 'runs': tmp_path / 'runs', 'quick': True}
    (theirs,) = reproduce('tiny', tiny_experiment(), **folders, select='digits-relu'.__eq__)
    (tmp_path / 'tiny.json').unlink()
    original = reproduce_module.train
    monkeypatch.setattr(reproduce_module, 'train', meanwhile)
    rows = reproduce('tiny', tiny_experiment(), **folders, select='digits-tanh'.__eq__)
    assert [row['name'] for row in rows] == ['digits-tanh', 'digits-relu']


@pytest.mark.full
def test_quick_trains_the_first_point_without_a_search_and_keeps_curves(tmp_path):
    folders = {'results': tmp_path / 'results', 'runs': tmp_path / 'runs'}
    experiment = tiny_experiment(curves=('epoch', 'seconds'))
    plain, blocks = experiment.rows()
    blocks['options'] |= {'learner.wiring': 'modules', 'learner.modules_per_block': 2}
    experiment.rows = lambda: [plain, blocks]
    rows = reproduce('tiny', experiment, **folders, quick=True)
    assert [row['wiring'] for row in rows] == ['blocks', 'modules by 2']
    assert len(list((tmp_path / 'runs').iterdir())) == 2
    assert [(row['search'], row['num_seeds']) for row in rows] == [([], 1)] * 2
    assert [row['config']['optimizer']['learning_rate'] for row in rows] == [1e-9] * 2
    assert rows[0]['curves']['epoch'] == [1, 2, 3]
    first, second, third = rows[0]['curves']['seconds']
    assert 0 < first < second < third
    assert rows[0]['curves']['val_error_sd'] == [0.0, 0.0, 0.0]
    assert (tmp_path / 'results' / 'tiny.svg').read_text().startswith('<?xml')


@pytest.mark.full
def test_rows_of_one_config_are_one_run(tmp_path, monkeypatch):
    searched = tiny_experiment()
    winner = {**searched.rows()[0], 'name': 'plain', 'grid': [{'optimizer.learning_rate': 1e-2}]}
    both = types.SimpleNamespace(**{**vars(searched), 'rows': lambda: [searched.rows()[0], winner]})
    epochs = []
    monkeypatch.setattr(MetricsLog, 'write', lambda self, number, *rest: epochs.append(number))
    rows = reproduce('tiny', both, results=tmp_path / 'results', runs=tmp_path / 'runs')
    assert rows[0]['config'] == rows[1]['config']
    assert epochs == [1, 2, 3] * 3  # two points of the search and their winner


EXPERIMENTS = (
    'cifar10',
    'cifar_cnn',
    'figure2',
    'mlp',
    'sequences',
    'shallow',
    'table1',
    'table2a',
    'table2b',
    'table3',
    'table3_imagenet',
)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_row_of_every_experiment_makes_a_config(name):
    experiment = importlib.import_module(f'configs.{name}')
    rows = experiment.rows()
    assert len({row['name'] for row in rows}) == len(rows)
    assert len({len(row['grid']) for row in rows if 'plain' not in row['name']}) == 1  # the same budget for all
    quick = set()
    for row in rows:
        small = {**experiment.QUICK, **row['grid'][0], **row.get('quick', {})}
        for options in [small, *({**point, **experiment.SEARCH} for point in row['grid'])]:
            argument = ','.join(f'{key}={value}' for key, value in {**row['options'], **options}.items())
            config = experiment.get_config(argument)
            assert config.learner.name in LEARNERS
            assert config.num_seeds in (1, 3)
            quick |= {config.to_json_best_effort()} if options is small else set()
    assert len(quick) == len(rows) or name == 'figure2'  # whose tuned rows are plain ones if nothing is searched


def test_experiments_that_share_rows_share_their_configs():
    """So that they train them once."""
    ours, theirs = ({row['name']: row for row in module.rows()} for module in (mlp, table1))
    shared = set(ours) & set(theirs)
    assert len(shared) == 2 * 5
    for name in shared:
        assert ours[name] == theirs[name]
    assert mlp.get_config('learner=lra_e') == table1.get_config('learner=lra_e')


def test_rows_of_two_experiments_can_be_one_run():
    def configs(module):
        arguments = ({**row['options'], **row['grid'][0]} for row in module.rows())
        texts = (','.join(f'{key}={value}' for key, value in argument.items()) for argument in arguments)
        return [module.get_config(text).to_dict() for text in texts]

    assert sum(config in configs(table2a) for config in configs(cifar10)) == 5  # BP, KP, WM, DFA and rLRA's blocks


def test_table1_has_every_row_of_the_paper():
    rows = table1.rows()
    paper = {'BP', 'TP', 'E-Prop', 'LRA-E', 'FA', 'DFA', 'WM', 'rLRA, tanh', 'rLRA, relu', 'rLRA, elu', 'rLRA, sign'}
    for dataset in ('mnist', 'fashion_mnist'):
        found = {row['algorithm']: row['paper_test_error'] for row in rows if row['options']['dataset'] == dataset}
        assert paper == {algorithm for algorithm, error in found.items() if error is not None}


@pytest.mark.parametrize('rule', ['kp', 'fixed', 'mirror', 'hebbian'])
def test_rules_bring_their_synapse_rate(rule):
    assert mlp.get_config(f'rule={rule}').synapse_optimizer.learning_rate == (0.3 if rule == 'mirror' else 0.01)
