"""A study as a user makes one."""

import json
import re
import sys

import in_process
import pytest

from configs import digits
from rlra_jax.experiment.flops import step_flops
from rlra_jax.experiment.train import prepare

SMALL = 'model.widths=(8,),epochs=1,num_seeds=1,train_examples=100'


def test_a_study_weighs_flops_and_its_runs_are_runs(tmp_path):
    """Of one hidden layer, all wirings are one; mirrors at every second step cost more than at every eighth."""
    pytest.importorskip('optuna', reason="pip install 'rlra_jax[tune]'")
    flags = f'--config=digits:{SMALL}', f'--study={tmp_path}', '--cost=flops', '--max_levels=1', '--trials=1'
    status, told = in_process.launch('launch.tune', *flags)
    assert status == 0, told
    assert '| trial | wiring | synapses | levels | flops | validation error | test error |' in told
    (trial,) = json.loads((tmp_path / 'front.json').read_text())['trials']
    (result,) = (tmp_path / 'runs').glob('*/result.json')
    assert json.loads(result.read_text())['val_error'] == trial['result']['val_error']
    assert trial['costs'] == {'synapses': 80, 'levels': 1, 'flops': trial['costs']['flops']}
    again = digits.get_config(f'{SMALL},{trial["argument"]}')
    rarely = digits.get_config(f'{SMALL},learner.mirror_every=8')
    counts = [step_flops(config, prepare(config)[0]) / config.batch_size for config in (again, rarely)]
    assert round(counts[0]) == trial['costs']['flops']
    assert counts[0] > counts[1] > 4 * (64 * 8 + 8 * 10)


def test_what_a_study_needs(tmp_path, monkeypatch):
    """Told before anything is written."""
    monkeypatch.setitem(sys.modules, 'optuna', None)
    status, told = in_process.launch('launch.tune', f'--config=digits:{SMALL}', f'--study={tmp_path / "study"}')
    assert status == 1
    assert re.search(r"studies are made with Optuna, which is not installed: pip install 'rlra_jax\[tune\]'", told)
    assert not (tmp_path / 'study').exists()
