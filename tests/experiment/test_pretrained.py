"""Trained networks as files of arrays."""

import pathlib

import helpers
import jax
import numpy as np
import pytest
from etils import epath

from configs import digits as config
from rlra_jax.experiment import pretrained
from rlra_jax.experiment.data import load
from rlra_jax.experiment.entries import flat, what
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.train import train


def error(network, split):
    """In %."""
    return 100 * float((np.asarray(network(split.image)).argmax(axis=-1) != split.label).mean())


def test_the_network_that_comes_with_the_package():
    """Small, nothing but arrays, and as good as README says of such networks; its data are those of today."""
    file = pathlib.Path(pretrained.__file__).with_name('digits.npz')
    assert file.stat().st_size < 300_000
    with np.load(file, allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} == {'f', 'U'}
    network, data = pretrained.digits(), load('digits')
    assert network.about['data_sha256'] == data.sha256
    then, today = (flat(found) for found in (network.about['config'], what(config.get_config('learner=rec_lra'))))
    assert {key: today[key] for key in then} == then  # as `make train` has it
    assert error(network, data.test) < 3
    assert network(data.test.image[:3]).shape == (3, 10)
    with pytest.raises(ValueError, match=r'must be uint8 \[B, 8, 8, 1\], as digits stores them; got float64 \[3, '):
        network(data.test.image[:3] / 16.0)


def test_a_run_as_a_file_answers_alike(tmp_path):
    workdir = tmp_path / 'run'
    result = train(config.get_config('learner=backprop,epochs=1,num_seeds=2,model.widths=(16,)'), workdir)
    trained = restore(workdir)
    pretrained.save(trained, epath.Path(tmp_path / 'new' / 'net.npz'), index=1)
    network = pretrained.read(epath.Path(tmp_path / 'new' / 'net.npz'))
    test = trained.dataset.test
    np.testing.assert_allclose(network(test.image), trained.predict(test.image, 1), rtol=1e-5, atol=1e-5)
    assert error(network, test) == pytest.approx(result['per_seed'][1]['test_error'])
    assert network.about['seed'] == 1
    with pytest.raises(ValueError, match=r'images must be uint8 \[B, 8, 8, 1\], as digits .* got uint8 \[2, 64\]'):
        network(test.image[:2].reshape(2, 64))
    with pytest.raises(ValueError, match='the path to write must be that of a file; got '):
        pretrained.save(trained, epath.Path(tmp_path / 'new'))
    with pytest.raises(ValueError, match='index must be below 2, the number of seeds; got 2'):
        pretrained.save(trained, epath.Path(tmp_path / 'never.npz'), index=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['new', 'run']


def test_a_file_averages_over_flips_as_its_run_does_and_none_leaves_out_how_states_settle(tmp_path):
    path = epath.Path(tmp_path / 'net.npz')
    trained = helpers.untrained(config.get_config('learner=backprop,model.widths=(8,),average_flips=True'))
    pretrained.save(trained, path)
    images, best = trained.dataset.test.image[:5], jax.tree.map(lambda leaf: leaf[0], trained.run.best)
    expected = trained.experiment.predict(best, trained.preprocess(images))
    np.testing.assert_allclose(pretrained.read(path)(images), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"one that answers by a forward pass; .* got 'equilibrium_prop'"):
        pretrained.save(helpers.untrained(config.get_config('learner=equilibrium_prop,model.widths=(8,)')), path)


@pytest.mark.parametrize('content', ['objects', 'other', 'text', 'empty'])
def test_other_files_are_refused_and_nothing_in_them_is_run(tmp_path, content):
    path = tmp_path / 'net.npz'
    if content == 'objects':

        class Trap:
            def __reduce__(self):
                return (pathlib.Path.touch, (tmp_path / 'sprung',))

        np.savez(path, about=np.array([Trap()], dtype=object))
    elif content == 'other':
        np.savez(path, weight=np.ones(3))
    else:
        path.write_text('' if content == 'empty' else 'weights')
    with pytest.raises(ValueError, match=r'net.npz must be a file that rlra-export wrote, ending in .npz; '):
        pretrained.read(epath.Path(path))
    assert not (tmp_path / 'sprung').exists()
