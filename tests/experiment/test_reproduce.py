import json
import types

import pytest

from configs import common, digits, mlp
from rlra_jax.experiment import reproduce as reproduce_module
from rlra_jax.experiment.reproduce import reproduce


def tiny_experiment():
    """Two rows of one family, searched over a rate that can't learn and one that can."""

    def get_config(argument):
        small = 'model.widths=(32,),epochs=2,num_seeds=2,checkpoint_every=9,learner.rule=fixed'
        options = common.parse(argument) | common.parse(small)
        if 'seeds' in options:
            options['num_seeds'] = options.pop('seeds')
        return digits.get_config(','.join(f'{key}={value}' for key, value in options.items()))

    def rows():
        grid = [{'optimizer.learning_rate': rate} for rate in (1e-9, 1e-2)]
        return [
            {'family': phi, 'options': {'dataset': 'digits', 'model.phi': phi}, 'grid': grid, 'paper_test_error': paper}
            for phi, paper in (('tanh', 1.5), ('relu', None))
        ]

    return types.SimpleNamespace(get_config=get_config, rows=rows, SEARCH={'dataset': 'digits', 'seeds': 1})


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
    assert (row['seeds'], row['epochs'], row['paper_test_error']) == ([0, 1], 2, 1.5)
    assert row['test_error_sd'] > 0

    # The same call again trains the missing row alone, and keeps the experiment's order.
    trained = []
    original = reproduce_module.train
    monkeypatch.setattr(reproduce_module, 'train', lambda c, w, d: trained.append(w.name) or original(c, w, d))
    rows = reproduce('tiny', experiment, **folders)
    assert [row['name'] for row in rows] == ['digits-tanh', 'digits-relu']
    assert trained == ['relu-0', 'relu-1', 'digits-relu']
    markdown = (tmp_path / 'results' / 'tiny.md').read_text()
    assert '| digits | rec_lra | fixed | blocks | tanh |' in markdown
    assert (tmp_path / 'results' / 'tiny.png').read_bytes().startswith(b'\x89PNG')


def test_every_row_of_the_mlp_table_makes_a_config():
    rows = mlp.rows()
    names = {f'{row["options"]["dataset"]}-{row["family"]}' for row in rows}
    assert len(names) == len(rows) == 30
    assert {len(row['grid']) for row in rows} == {4}  # the same budget for every learner
    for row in rows:
        for point in row['grid']:
            options = {**row['options'], **point, **mlp.SEARCH}
            config = mlp.get_config(','.join(f'{key}={value}' for key, value in options.items()))
            assert (config.dataset, config.num_seeds) == ('fashion_mnist', 1)
    assert sum(row['paper_test_error'] is not None for row in rows) == 2 * 13


@pytest.mark.parametrize('rule', ['kp', 'fixed', 'mirror', 'hebbian'])
def test_rules_bring_their_synapse_rate(rule):
    assert mlp.get_config(f'rule={rule}').synapse_optimizer.learning_rate == (0.5 if rule == 'mirror' else 0.01)
