"""Runs that would not fit are refused before anything is computed."""

import functools
import re

import helpers
import jax
import numpy as np
import pytest

from rlra_jax.experiment import memory
from rlra_jax.experiment.epoch import init_runs
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.scanned import Scanned
from rlra_jax.experiment.train import prepare, train


@pytest.mark.full
@pytest.mark.parametrize('learner', ['rec_lra', 'backprop'])
def test_what_a_seed_holds_is_about_what_xla_plans(learner):
    """Arguments, results and temporary arrays of a compiled epoch, the data aside, and the Run that it began with."""
    from configs import digits

    seeds = np.arange(8, dtype=np.int32)
    config = digits.get_config(f'learner={learner},num_seeds=8')
    dataset, experiment, _ = prepare(config)
    run = jax.jit(functools.partial(init_runs, experiment))(seeds)
    scanned = Scanned(experiment, dataset, Preprocess(dataset.scale), seeds, run, moments=None)
    plan = scanned._programs.advance.memory_analysis()
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    planned -= plan.alias_size_in_bytes + sum(leaf.nbytes for leaf in jax.tree.leaves(scanned.train))
    planned += sum(leaf.nbytes for leaf in jax.tree.leaves(run))
    np.testing.assert_allclose(memory.seed_bytes(experiment, 'data'), planned / 8, rtol=0.25)


def test_the_error_says_how_many_seeds_fit_and_so_many_do(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, 'available_bytes', lambda experiment: 10**7)
    with pytest.raises(ValueError, match=r'num_seeds must be at most \d+ here: a seed needs about .* kB') as error:
        train(helpers.make_config(num_seeds=100000), tmp_path / 'never')
    assert '10 MB are there, of which the data take 122 kB; got 100000' in str(error.value)
    assert not (tmp_path / 'never').exists()
    fit = int(re.search(r'at most (\d+)', str(error.value)).group(1))
    dataset, experiment, _ = prepare(helpers.make_config())
    assert fit == (10**7 - 1797 * (64 + 4)) // memory.seed_bytes(experiment, 'data')
    memory.check_memory(helpers.make_config(num_seeds=fit), experiment, dataset)
    with pytest.raises(ValueError, match=f'at most {fit} here'):
        memory.check_memory(helpers.make_config(num_seeds=fit + 1), experiment, dataset)


def test_a_model_of_which_not_one_fits(tmp_path):
    """A petabyte for its weights alone."""
    config = helpers.make_config(**{'model.widths': (10**7, 10**7), 'num_seeds': 1})
    with pytest.raises(ValueError, match=r'the model or its batch must be smaller: a seed needs about [\d,.]+ TB'):
        train(config, tmp_path / 'never')
    assert not (tmp_path / 'never').exists()


@pytest.mark.full
def test_a_finished_run_is_read_where_it_would_not_fit(tmp_path, monkeypatch):
    config = helpers.make_config(epochs=1, num_seeds=1)
    result = train(config, tmp_path)
    monkeypatch.setattr(memory, 'available_bytes', lambda experiment: 0)
    assert train(config, tmp_path) == result
    with pytest.raises(ValueError, match='the model or its batch must be smaller'):
        train(helpers.make_config(epochs=2, num_seeds=1), tmp_path)  # it trains longer


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    _, experiment, _ = prepare(helpers.make_config())
    monkeypatch.setattr(memory, '_CONTAINER', tmp_path / 'memory.max')
    free = memory.available_bytes(experiment)
    (tmp_path / 'memory.max').write_text('1000000\n')
    assert memory.available_bytes(experiment) == 1000000 // len(experiment.spread.mesh.local_devices) < free
    (tmp_path / 'memory.max').write_text('max\n')
    assert memory.available_bytes(experiment) > 1000000
