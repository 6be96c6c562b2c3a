import numpy as np
import prepared
import pytest

from rlra_jax.experiment.crops import decode
from rlra_jax.experiment.data import load, pack_dataset


def test_a_packed_set_is_the_set(tmp_path):
    prepared.mnist(tmp_path / 'tfds', train=2010, test=7)
    file = tmp_path / 'packed' / 'mnist.npz'
    pack_dataset('mnist', file, str(tmp_path / 'tfds'))
    assert load('mnist', str(file.parent)).sha256 == load('mnist', str(tmp_path / 'tfds')).sha256
    assert not [path for path in file.parent.iterdir() if path != file]

    with np.load(file) as saved:
        arrays = dict(saved)
    arrays['test_bytes'] = arrays['test_bytes'].copy()
    arrays['test_bytes'][arrays['test_ends'][1] : arrays['test_ends'][2]] = 0  # the third image
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=r'example 2 of test of .*mnist\.npz: it cannot be read or decoded'):
        load('mnist', str(file.parent))
    assert len(load('mnist', str(file.parent), 'skip').test.label) == 6

    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"mnist.npz must be a packed data set with the splits \['train', 'test'\]"):
        load('mnist', str(file.parent))
    with file.open('wb') as opened:
        np.save(opened, np.zeros(3))
    with pytest.raises(ValueError, match=r'mnist\.npz must be a packed data set with the splits'):
        load('mnist', str(file.parent))
    with pytest.raises(ValueError, match="unknown data set of small images 'digits'; known: cifar10, fashion_mnist"):
        pack_dataset('digits', file)


@pytest.mark.full
def test_photographs_are_decoded_as_tfds_does(data_dir, tmp_path):
    pack_dataset('cifar10', tmp_path / 'cifar10.npz', data_dir)
    packed, own = load('cifar10', str(tmp_path)), load('cifar10', data_dir)
    np.testing.assert_array_equal(packed.test.image[:100], own.test.image[:100])
    assert packed.sha256 == own.sha256


def test_grey_images_have_one_channel():
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (5, 4, 1)).astype(np.uint8)
    encoded = cv2.imencode('.png', image)[1].tobytes()
    np.testing.assert_array_equal(decode(encoded, 1), image)
    np.testing.assert_array_equal(decode(encoded), np.repeat(image, 3, axis=2))
