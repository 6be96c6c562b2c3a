import json

import helpers
import jax
import numpy as np
import pytest

from rlra_jax.experiment.data import load
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.train import train


@pytest.mark.parametrize('finished', [True, False])
def test_gives_back_the_best_model_of_each_seed_wherever_it_was_trained(tmp_path, finished):
    """A run on another mesh leaves the same files, but for the entry parallel."""
    rough = {'optimizer.learning_rate': 1.0, 'optimizer.schedule': 'constant', 'epochs': 8}  # the last is not the best
    result = train(helpers.make_config(**rough), tmp_path)
    assert min(row['best_epoch'] for row in result['per_seed']) < result['epochs']
    if not finished:
        (tmp_path / 'result.json').unlink()
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(config | {'parallel': {**config['parallel'], 'data': 64}}))
    trained = restore(tmp_path)
    x = trained.preprocess(trained.dataset.test.image)
    assert trained.epoch == result['epochs']
    for index, row in enumerate(result['per_seed']):
        best = jax.tree.map(lambda leaf: leaf[index], trained.run.best)  # noqa: B023
        guesses = trained.experiment.predict(best, x).argmax(axis=1)
        error = 100 * float((guesses != trained.dataset.test.label).mean())
        np.testing.assert_allclose(error, row['test_error'], rtol=1e-5)


def test_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no config\.json'):
        restore(tmp_path)
    (tmp_path / 'config.json').write_text(json.dumps(helpers.make_config().to_dict()))
    with pytest.raises(FileNotFoundError, match='has not finished an epoch'):
        restore(tmp_path, load('digits'))
