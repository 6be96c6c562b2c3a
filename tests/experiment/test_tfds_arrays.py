import hashlib
import importlib.util
import pathlib
import subprocess
import sys
import types

import cv2
import jax
import numpy as np
import prepared
import pytest

from rlra_jax.experiment import tfds_arrays
from rlra_jax.experiment.data import load


def test_missing_data_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load('mnist', str(tmp_path))
    message = str(error.value)
    assert f"tfds.builder('mnist', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()" in message
    missing = [m for m in ('tensorflow', 'importlib_resources') if importlib.util.find_spec(m) is None]
    assert ('pip install ' + ' '.join(missing) in message) == bool(missing)
    assert '$RLRA_DATA_DIR' in message


def test_a_set_that_tfds_cannot_prepare(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'not prepared in .*\$RLRA_DATA_DIR.* TFDS cannot prepare this set'):
        load('tiny_imagenet', str(tmp_path))


@pytest.mark.full
@pytest.mark.parametrize(
    ('name', 'sizes', 'classes', 'digest'),  # of the test images, as the sets' own manifest has it
    [
        ('cifar10', [45000, 5000, 10000], 10, '3a9a3752963dccd5df9ce7aa774c72568c8ad5d4eef8808be23bf0d56fd17693'),
        (
            'tiny_imagenet',
            [32400, 3600, 10000],
            200,
            'af44cf3a8e701e8625d67eb14cc0f0c8436a73533d169386fa492a753b49e526',
        ),
    ],
)
def test_reads_the_colour_sets(data_dir, name, sizes, classes, digest):
    data = load(name, data_dir)
    assert [len(split.label) for split in (data.train, data.val, data.test)] == sizes
    assert data.classes == classes == len(np.unique(data.val.label))
    assert hashlib.sha256(data.test.image.tobytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ('absent', 'name', 'message'),
    [
        ({'sklearn'}, 'digits', 'pip install scikit-learn'),
        ({'tensorflow_datasets'}, 'mnist', 'pip install tensorflow-datasets'),
        ({'cv2', 'PIL'}, 'mnist', 'no decoder is installed: pip install opencv-python-headless'),
    ],
)
def test_missing_packages(monkeypatch, absent, name, message):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda m: None if m in absent else found(m))
    with pytest.raises(ModuleNotFoundError, match=message):
        load(name)


@pytest.mark.full
def test_decodes_once_and_reads_the_originals(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv('RLRA_CACHE_DIR', str(tmp_path))
    first = load('mnist', data_dir)
    (file,) = tmp_path.iterdir()
    with np.load(file) as arrays:
        assert sorted(arrays) == [f'{part}_{field}' for part in ('test', 'train') for field in ('image', 'label')]
    monkeypatch.setattr(tfds_arrays, '_decode', lambda *args: pytest.fail('decoded twice'))
    again = load('mnist', data_dir)
    assert first.sha256 == again.sha256
    assert [len(split.label) for split in (first.train, first.val, first.test)] == [58000, 2000, 10000]
    digest = hashlib.sha256(first.test.image.tobytes()).hexdigest()
    assert digest == 'a85d8dffc6063fb89dcbc2122651701e7bbc18837f940fc9d76df48c224558ca'  # the original pixels


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('RLRA_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A prepared set of which decoding takes no time."""
    folder = tmp_path_factory.mktemp('data')
    prepared.mnist(folder, train=12, test=6)
    return folder


def same(one, two):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all((a == b).all() and a.dtype == b.dtype for a, b in pairs)


def test_reads_what_was_prepared(small, cache):
    (train, test), classes = tfds_arrays.read('mnist', ['train', 'test'], str(small))
    assert classes == 10
    for (image, label), count in ((train, 12), (test, 6)):
        stored = prepared.grey(count, seed=count)
        np.testing.assert_array_equal(image, [image for image, _ in stored])
        np.testing.assert_array_equal(label, [label for _, label in stored])


def test_whatever_bit_of_a_cache_flips_the_data_are_the_same(small, cache, caplog):
    """Pixels, labels and the archive's own entries alike: those that change nothing may pass, all others are told."""
    whole, _ = tfds_arrays.read('mnist', ['test'], str(small))
    (file,) = cache.iterdir()
    stored = file.read_bytes()
    rng, told = np.random.default_rng(0), 0
    places = [*range(200), *rng.integers(200, len(stored) - 400, 50), *range(len(stored) - 400, len(stored))]
    for place in places:
        damaged = bytearray(stored)
        damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        caplog.clear()
        came, _ = tfds_arrays.read('mnist', ['test'], str(small))
        assert same(came, whole), place
        told += 'is damaged' in caplog.text
    assert told > len(places) / 2


def test_a_cache_of_another_version_is_made_anew(small, cache, caplog):
    whole, _ = tfds_arrays.read('mnist', ['test'], str(small))
    (file,) = cache.iterdir()
    image, label = whole[0]
    for other in (
        {'image': image, 'label': label},
        {'test_image': image[..., 0], 'test_label': label},
        {'test_image': image / 255, 'test_label': label},
        {'test_image': image, 'test_label': label[:-1]},
    ):
        np.savez(file, **other)
        caplog.clear()
        assert same(tfds_arrays.read('mnist', ['test'], str(small))[0], whole)
        assert 'is damaged' in caplog.text
    caplog.clear()
    assert same(tfds_arrays.read('mnist', ['test'], str(small))[0], whole)
    assert not caplog.text


SPOILT = {
    'no image': (lambda image, label: (b'', label), r'it cannot be read or decoded \(.*\)$'),
    'half an image': (lambda image, label: (image[: len(image) // 2], label), r'it cannot be read or decoded \('),
    'no class': (lambda image, label: (image, 12), r'its label must be from 0 to 9; got 12$'),
}


@pytest.mark.parametrize('spoilt', SPOILT)
def test_an_example_that_cannot_be_read_is_named_or_left_out(tmp_path, cache, caplog, spoilt):
    """By file and index, also in the second file; what lacks examples is other data, and is never taken for all."""
    spoil, message = SPOILT[spoilt]

    def damage(split, i, image, label):
        return spoil(image, label) if (split, i) == ('train', 2053) else (image, label)

    folder = prepared.mnist(tmp_path, damage=damage)
    file = folder / 'mnist-train.array_record-00001-of-00002'
    place = rf'^example 2053 of mnist/train \(record 1003 of {file}\): '
    for _ in range(2):
        with pytest.raises(ValueError, match=place + message):
            load('mnist', str(tmp_path))
        caplog.clear()
        data = load('mnist', str(tmp_path), 'skip')
        assert 'mnist/train lacks 1 of its 2100 examples, which cannot be read' in caplog.text
        assert (data.train.size, data.val.size, data.test.size) == (99, 2000, 20)
    np.testing.assert_array_equal(data.val.label, np.delete(np.arange(2100) % 10, 2053)[99:])


def test_a_warning_names_the_first_of_many_and_counts_all(tmp_path, cache, caplog):
    prepared.mnist(tmp_path, damage=lambda split, i, image, label: (b'' if i % 2 else image, label))
    with pytest.raises(ValueError, match='cannot hold 2000 of 1050'):
        load('mnist', str(tmp_path), 'skip')
    assert caplog.text.count('example ') == 20
    assert 'mnist/train lacks 1050 of its 2100 examples' in caplog.text


def test_images_of_different_shapes(tmp_path, cache):
    wide = cv2.imencode('.png', np.zeros((28, 30, 1), np.uint8))[1].tobytes()
    prepared.mnist(tmp_path, damage=lambda split, i, image, label: (wide if i == 4 else image, label))
    with pytest.raises(ValueError, match=r'example 4 of mnist/train .*: its image must be .* as those before; got'):
        load('mnist', str(tmp_path))


def test_a_set_of_which_nothing_can_be_read(tmp_path, cache):
    prepared.mnist(tmp_path, train=4, damage=lambda split, i, image, label: (b'', label))
    with pytest.raises(
        ValueError, match=r'mnist/train must hold an example that can be read; got 4 that cannot; the f'
    ):
        load('mnist', str(tmp_path), 'skip')


DAMAGED = {  # (which file, what becomes of its bytes, what is said)
    'an empty description': ('dataset_info.json', lambda stored: b'', 'FILE cannot be read; copy it anew'),
    'half a description': ('dataset_info.json', lambda stored: stored[:100], 'FILE cannot be read; copy it anew'),
    'noise': ('dataset_info.json', lambda stored: b'\x80\xff', 'FILE cannot be read; copy it anew'),
    'a list': ('dataset_info.json', lambda stored: b'[]', 'FILE cannot be read; copy it anew'),
    'another set': ('dataset_info.json', lambda stored: stored.replace(b'3.0.1', b'2.0.0'), 'the description of the'),
    'no records': ('mnist-test.array_record-00001-of-00002', lambda stored: b'', r'example 3 of .*record 0 of FILE'),
    'half': ('mnist-test.array_record-00001-of-00002', lambda stored: stored[: len(stored) // 2], r'record 0 of FILE'),
    'a flipped bit': (
        'mnist-test.array_record-00000-of-00002',
        lambda stored: stored[:300] + bytes([stored[300] ^ 1]) + stored[301:],
        'example 0 of mnist/test .record 0 of FILE',
    ),
}


@pytest.mark.parametrize('damaged', DAMAGED)
def test_a_damaged_file_is_named(tmp_path, cache, damaged):
    name, spoil, message = DAMAGED[damaged]
    folder = prepared.mnist(tmp_path, train=12, test=6)
    stored = (folder / name).read_bytes()
    (folder / name).write_bytes(spoil(stored))
    with pytest.raises(ValueError, match=message.replace('FILE', str(folder / name))):
        load('mnist', str(tmp_path))


def test_a_missing_file_is_named(tmp_path, cache):
    folder = prepared.mnist(tmp_path, train=12, test=6)
    (folder / 'mnist-train.array_record-00001-of-00002').unlink()
    with pytest.raises(ValueError, match=rf'example 6 of mnist/train .record 0 of {folder}/mnist-train.*00001-of'):
        load('mnist', str(tmp_path))


def test_reading_does_not_import_tensorflow(data_dir):
    code = (
        'import sys; from rlra_jax.experiment import data; data.load("mnist"); assert "tensorflow" not in sys.modules'
    )
    root = pathlib.Path(__file__).parents[2]
    subprocess.run([sys.executable, '-c', code], cwd=root, check=True)


def test_what_others_put_beside_prepared_files_makes_no_other_set(tmp_path):
    builder = types.SimpleNamespace(data_path=tmp_path)
    (tmp_path / 'dataset_info.json').write_text('{}')
    (tmp_path / 'train.array_record').write_bytes(b'abc')
    before = tfds_arrays.fingerprint(builder)
    (tmp_path / '.DS_Store').write_bytes(b'')
    (tmp_path / 'backup').mkdir()
    assert tfds_arrays.fingerprint(builder) == before
    (tmp_path / 'train.array_record').write_bytes(b'abcd')
    assert tfds_arrays.fingerprint(builder) != before
