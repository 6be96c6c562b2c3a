import csv

import numpy as np
import pytest

from rlra_jax.experiment.metrics import read_metrics
from rlra_jax.experiment.train import train


@pytest.mark.parametrize('learner', ['rec_lra', pytest.param('feedback_alignment', marks=pytest.mark.full)])
def test_diagnostics_go_to_metrics_csv_and_change_nothing(tmp_path, learner):
    from configs import common, digits

    options = {'model.widths': (16, 16), 'epochs': 2, 'num_seeds': 2, 'checkpoint_every': 1}
    config = common.override(digits.get_config(f'learner={learner}'), options)
    plain = train(config, tmp_path / 'plain')
    config.diagnostics = True
    told = train(config, tmp_path / 'told')
    assert [seed['test_error'] for seed in told['per_seed']] == [seed['test_error'] for seed in plain['per_seed']]
    rows = read_metrics(tmp_path / 'told' / 'metrics.csv')
    assert len(rows) == 4
    synapse = {'rec_lra': 'output->hidden_2', 'feedback_alignment': 'readout/kernel'}[learner]
    for name in ('angle/hidden_1', 'norm_ratio/output', 'saturated/hidden_2', 'dead/hidden_1', f'alignment/{synapse}'):
        assert np.isfinite([row[name] for row in rows]).all(), name
    assert rows[0]['angle/output'] < 1
    assert rows[0][f'alignment/{synapse}'] != rows[1][f'alignment/{synapse}']  # seeds differ
    with (tmp_path / 'plain' / 'metrics.csv').open() as file:
        assert not any('/' in column for column in next(csv.reader(file)))
    assert list((tmp_path / 'told' / 'tensorboard').iterdir())
