import pytest

from benchmarks import mirror
from rlra_jax.experiment.data import load


@pytest.mark.full
def test_a_chain_that_mirrors_at_every_step_is_aligned_soon():
    case = {'wiring': 'chain', 'mirror_every': 1, 'learning_rate': 1e-3, 'synapse_rate': 1.0}
    row = mirror.measure(case, load('digits'), 'relu', 60)
    assert {name: row[name] for name in case} == case
    assert len(row['cosines']) == 5
    assert row['cosines'][-1] > 0.95
    assert row['sd'] > 0
