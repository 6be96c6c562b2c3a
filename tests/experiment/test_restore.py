import functools
import json

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import prepared
import pytest

from rlra_jax.experiment.data import Split, load
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
    del config['bad_examples']  # as runs of older versions have it
    (tmp_path / 'config.json').write_text(json.dumps(config | {'parallel': {**config['parallel'], 'data': 64}}))
    trained = restore(tmp_path)
    assert trained.epoch == result['epochs']
    for index, row in enumerate(result['per_seed']):
        guesses = trained.predict(trained.dataset.test.image, index).argmax(axis=1)
        error = 100 * float((guesses != trained.dataset.test.label).mean())
        np.testing.assert_allclose(error, row['test_error'], rtol=1e-5)


def test_predictions_are_of_images_as_they_are_stored(tmp_path):
    """What is preprocessed already must not be preprocessed again, nor can a bare image be taken for a batch."""
    train(helpers.make_config(epochs=1, **{'preprocess.contrast': True}), tmp_path)
    trained = restore(tmp_path)
    image = trained.dataset.test.image[:3]
    assert trained.predict(image).shape == (3, 10)
    seen = trained.experiment.predict(one_of(trained.run.best), trained.preprocess(image))
    np.testing.assert_allclose(trained.predict(image), seen, rtol=1e-5, atol=1e-6)
    stored = r'images must be uint8 \[B, 8, 8, 1\], as digits stores them; got '
    for wrong, came in [
        (trained.preprocess(image), r'float32 \[3, 8, 8, 1\]'),
        (image[0], r'uint8 \[8, 8, 1\]'),
        (image[:, :4], r'uint8 \[3, 4, 8, 1\]'),
    ]:
        with pytest.raises(ValueError, match=stored + came):
            trained.predict(wrong)
    with pytest.raises(ValueError, match='index must be below 2, the number of seeds; got 2'):
        trained.predict(image, 2)
    with pytest.raises(ValueError, match='index must be a whole number of at least 0; got -1'):
        trained.predict(image, -1)


@pytest.mark.full
def test_predictions_of_floating_images(tmp_path):
    data = load('digits')
    halves = [Split(split.image.astype(np.float16), split.label) for split in (data.train, data.val, data.test)]
    data = data._replace(**dict(zip(('train', 'val', 'test'), halves, strict=True)))
    train(helpers.make_config(epochs=1), tmp_path, data)
    trained = restore(tmp_path, data)
    assert trained.predict(jnp.asarray(data.test.image[:3], jnp.bfloat16)).shape == (3, 10)
    with pytest.raises(ValueError, match=r'images must be floating \[B, 8, 8, 1\], as digits stores them; got uint8'):
        trained.predict(data.test.image[:3].astype(np.uint8))


def test_data_of_the_same_numbers_that_mean_something_else(tmp_path):
    data, config = load('digits'), helpers.make_config(epochs=1)
    train(config, tmp_path, data)
    for use in (restore, functools.partial(train, config)):
        with pytest.raises(ValueError, match=r'holds a run on data of scale 0\.0625; here it is 1\.0'):
            use(tmp_path, data._replace(scale=1.0))


def test_other_data_than_the_run_was_trained_on(tmp_path):
    train(helpers.make_config(epochs=1), tmp_path, load('digits')._replace(sha256='abcdefghij'))
    with pytest.raises(ValueError, match='holds a run on other data, of sha256 abcdefgh; here digits has 335d6ebf'):
        restore(tmp_path)
    (tmp_path / 'origin.json').unlink()
    assert restore(tmp_path).epoch == 1


def test_data_that_moved_are_found_by_the_environment(tmp_path, monkeypatch, caplog):
    """While a folder that is there keeps its right, and without the variable the folder that is gone is named."""
    old, new = tmp_path / 'old', tmp_path / 'new'
    prepared.mnist(old)
    monkeypatch.setenv('RLRA_DATA_DIR', str(tmp_path / 'nowhere'))
    small = {'dataset': 'mnist', 'data_dir': str(old), 'train_examples': 50, 'epochs': 1}
    train(helpers.make_config(**small), tmp_path / 'run')
    assert restore(tmp_path / 'run').config.data_dir == str(old)
    old.rename(new)
    monkeypatch.setenv('RLRA_DATA_DIR', str(new))
    assert restore(tmp_path / 'run').epoch == 1
    assert f"{old}, the run's data_dir, is gone: its data are read from $RLRA_DATA_DIR, {new}" in caplog.text
    monkeypatch.delenv('RLRA_DATA_DIR')
    with pytest.raises(FileNotFoundError, match=f'mnist is not prepared at {old}'):
        restore(tmp_path / 'run')


def one_of(best):
    return jax.tree.map(lambda leaf: leaf[0], best)


def test_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no config\.json'):
        restore(tmp_path)
    (tmp_path / 'config.json').write_text(json.dumps(helpers.make_config().to_dict()))
    with pytest.raises(FileNotFoundError, match='has not finished an epoch'):
        restore(tmp_path, load('digits'))
