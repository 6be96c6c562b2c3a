"""A set in TFDS's format, read by grain."""

import io

import imagenet_sample
import numpy as np
import PIL.Image
import pytest

from rlra_jax.experiment.crops import centre_crop, decode
from rlra_jax.experiment.data import check_dataset, first_examples, load
from rlra_jax.experiment.records import open_records


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    imagenet_sample.write(folder)
    return folder


@pytest.fixture
def train(sample):
    return open_records('imagenet2012', ('train',), str(sample), side=16)[0][0]


def read(records, order, key=None):
    with records.batches(np.asarray(order), key) as batches:
        return list(batches)


def test_the_splits_of_a_whole_data_set(sample, tmp_path):
    data = load('imagenet2012', str(sample))
    assert [split.size for split in (data.train, data.val, data.test)] == [58, 2, 10]
    assert data.classes == 1000
    assert data.train.shape == (224, 224, 3)
    (batch,) = read(data.val, [[0, 1]])
    assert batch['image'].shape == (2, 224, 224, 3)
    assert batch['image'].dtype == np.uint8
    assert batch['image'].max() * data.scale <= 1
    stored = [image for image, _ in imagenet_sample.photographs(60, seed=60)][58]
    np.testing.assert_array_equal(batch['image'][0], centre_crop(decode(imagenet_sample.jpeg(stored)), 224))
    assert data.sha256 == load('imagenet2012', str(sample)).sha256
    assert data.sha256.startswith('files:')
    first = first_examples(data, 20)
    assert (first.train.size, first.val.size) == (20, 2)
    assert first.sha256.startswith('files:')
    imagenet_sample.write(tmp_path, train=61)
    assert len({first.sha256, data.sha256, load('imagenet2012', str(tmp_path)).sha256}) == 3


def test_batches_hold_what_the_order_says(train):
    labels = np.array([label for _, label in imagenet_sample.photographs(60, seed=60)])
    order = np.random.default_rng(0).permutation(60).reshape(6, 10)
    batches = read(train, order)
    np.testing.assert_array_equal([batch['label'] for batch in batches], labels[order])
    later = read(train.part(20, None), order[:2] % 40)
    np.testing.assert_array_equal([batch['label'] for batch in later], labels[20 + order[:2] % 40])


def test_missing_examples_are_black_and_of_no_class(train):
    (batch,) = read(train, [[3, -1]])
    assert batch['label'][1] == -1
    assert batch['image'][0].any()
    assert not batch['image'][1].any()


def test_crops_depend_on_seed_epoch_and_example_alone(train):
    order = np.arange(20).reshape(2, 10)
    one = np.concatenate([batch['image'] for batch in read(train, order, (0, 1))])
    backwards = np.concatenate([batch['image'] for batch in read(train, order[::-1, ::-1], (0, 1))])
    np.testing.assert_array_equal(one, backwards[::-1])
    for key in ((0, 2), (1, 1), None):
        other = np.concatenate([batch['image'] for batch in read(train, order, key)])
        assert (one != other).any(axis=(1, 2, 3)).sum() >= 19


def test_the_shares_of_two_processes_are_the_whole_batch(train):
    order = np.arange(24).reshape(3, 8)
    whole = read(train, order, (0, 1))
    shares = [read(train, order[:, rows], (0, 1)) for rows in (slice(0, 4), slice(4, 8))]
    for batch, *parts in zip(whole, *shares, strict=True):
        for name in ('image', 'label'):
            np.testing.assert_array_equal(batch[name], np.concatenate([part[name] for part in parts]))


def odd(split, i, encoded):
    """A grey JPEG, a CMYK JPEG, a PNG, and one that a camera held sideways."""
    picture = PIL.Image.open(io.BytesIO(encoded))
    sideways = PIL.Image.Exif()
    sideways[0x0112] = 6
    store = {
        0: lambda file: picture.convert('L').save(file, 'jpeg'),
        1: lambda file: picture.convert('CMYK').save(file, 'jpeg', quality=95),
        2: lambda file: picture.save(file, 'png'),
        3: lambda file: picture.save(file, 'jpeg', quality=95, exif=sideways),
    }.get(i)
    if split != 'train' or store is None:
        return encoded
    store(file := io.BytesIO())
    return file.getvalue()


def test_images_of_every_kind(tmp_path, train):
    imagenet_sample.write(tmp_path, damage=odd)
    odd_ones = open_records('imagenet2012', ('train',), str(tmp_path), side=16)[0][0]
    (came,), (usual,) = read(odd_ones, [[0, 1, 2, 3]]), read(train, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(came['label'], usual['label'])
    grey = came['image'][0]
    assert (grey == grey[..., :1]).all()
    off = np.abs(came['image'].astype(float) - usual['image']).mean(axis=(1, 2, 3))
    assert (off[1:] < 4).all(), off  # of 255


@pytest.mark.parametrize('damaged', [b'', b'no image', None])
def test_a_damaged_image_is_named(tmp_path, damaged):
    """None: a JPEG without its middle part, which OpenCV notices in the header alone."""

    def damage(split, i, encoded):
        return encoded if i != 7 else encoded[:100] + encoded[400:] if damaged is None else damaged

    imagenet_sample.write(tmp_path, train=10, damage=damage)
    train = open_records('imagenet2012', ('train',), str(tmp_path), side=16)[0][0]
    file = tmp_path / 'imagenet2012' / '5.1.0' / 'imagenet2012-train.array_record-00001-of-00002'
    place = rf'^example 7 of imagenet2012/train \(record 2 of {file}\): '
    with pytest.raises(ValueError, match=place + r"cannot decode its image .* \(b'train_7.JPEG'\)"):
        read(train, np.arange(10).reshape(5, 2), (0, 1))


def test_another_example_takes_the_place_of_a_damaged_one(tmp_path, caplog):
    """The same one in every epoch, in training and evaluation, in crops of its own; a warning tells once."""
    imagenet_sample.write(tmp_path, train=10, damage=lambda split, i, encoded: b'' if i == 7 else encoded)
    kinds = {'data_dir': str(tmp_path), 'side': 16, 'bad_examples': 'skip'}
    train = open_records('imagenet2012', ('train',), **kinds)[0][0]
    order = np.arange(10).reshape(2, 5)
    for key in (None, (0, 1)):
        once, again = (np.concatenate([batch['image'] for batch in read(train, order, key)]) for _ in range(2))
        np.testing.assert_array_equal(once, again)
        (twin,) = (i for i in range(10) if i != 7 and (once[i] == once[7]).all())
    assert twin != 7
    assert caplog.text.count('example 7 of imagenet2012/train') == 1
    assert 'another example takes its place' in caplog.text
    assert {batch['label'].dtype for batch in read(train, order)} == {np.dtype(np.int32)}


def test_where_no_example_can_be_read_reading_ends(tmp_path):
    folder = imagenet_sample.write(tmp_path, train=10)
    train = open_records('imagenet2012', ('train',), str(tmp_path), side=16, bad_examples='skip')[0][0]
    for file in folder.glob('*train*'):
        file.unlink()
    with pytest.raises(ValueError, match='imagenet2012/train: 100 examples in a row cannot be read'):
        read(train, [[1, 2]])


def test_an_empty_split(tmp_path):
    imagenet_sample.write(tmp_path, splits=('train', 'validation'), train=60)
    data = load('imagenet2012', str(tmp_path))
    with pytest.raises(ValueError, match='imagenet2012/test must hold at least one example; got none'):
        check_dataset(data._replace(test=data.test.part(0, 0)))


def test_a_label_that_is_no_class(train):
    with pytest.raises(ValueError, match=r'example 1 of .*: its label must be from 0 to 499; got 501'):
        read(train._replace(classes=500), [[1]])


def test_a_set_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)not prepared at .*tfds.builder\('imagenet2012', data_dir="):
        load('imagenet2012', str(tmp_path))


def test_a_set_without_its_validation_split(tmp_path):
    imagenet_sample.write(tmp_path, splits=('train',))
    with pytest.raises(FileNotFoundError, match=r"without its splits \['validation'\]"):
        load('imagenet2012', str(tmp_path))
