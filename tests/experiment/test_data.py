import helpers
import numpy as np
import pytest

from rlra_jax.experiment.data import Split, first_examples, load, make_dataset
from rlra_jax.experiment.train import train


def fake(count=20, classes=3, **changes):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (count, 4, 4, 1)).astype(np.uint8)
    return Split(image, rng.integers(0, classes, count).astype(np.int32))._replace(**changes)


def spoilt(value):
    image = np.zeros((20, 4, 4, 1), np.float32)
    image[11, 2, 3] = value
    return image


def test_digits_are_real_complete_and_always_the_same():
    one, again = load('digits'), load('digits')
    assert [len(split.label) for split in (one.train, one.val, one.test)] == [1197, 200, 400]
    assert one.train.image.shape[1:] == (8, 8, 1)
    assert one.train.image.max() * one.scale == 1.0
    assert one.sha256 == again.sha256
    everything = np.concatenate([split.image for split in (one.train, one.val, one.test)]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    np.testing.assert_array_equal(np.sort(everything.sum(axis=1)), np.sort(load_digits().data.sum(axis=1)))


def test_validation_is_held_out_of_training():
    made = make_dataset('fake', fake(), fake(5), classes=3, held_out=6, scale=1.0)
    np.testing.assert_array_equal(np.concatenate([made.train.image, made.val.image]), fake().image)
    assert len(made.val.label) == 6


def test_only_the_first_training_examples():
    made = make_dataset('fake', fake(), fake(5), classes=3, held_out=6, scale=1.0)
    first = first_examples(made, 4)
    np.testing.assert_array_equal(first.train.image, fake().image[:4])
    np.testing.assert_array_equal(first.val.image, made.val.image)
    assert first.sha256 != made.sha256
    assert first_examples(made, 0) is made
    with pytest.raises(ValueError, match='train_examples must be from 0, for all, to 14; got 15'):
        first_examples(made, 15)


@pytest.mark.parametrize(
    ('train', 'message'),
    [
        (fake(classes=4), r'fake/train: labels of 3 classes run from 0 to 2; got 0 to 3'),
        (fake(label=np.full(20, -1)), 'got -1 to -1'),
        (fake(label=np.zeros(20)), 'as many integer labels; got float64'),
        (fake(label=np.zeros(19, int)), r'got int64 \(13,\)'),
        (fake(image=np.zeros((20, 16))), r'must be \[N, height, width, channels\]'),
        (fake(label=np.arange(20) % 3 + 1), 'run from 0 to 2; got 1 to 3; subtract 1'),
        (fake(image=np.zeros((20, 4, 4, 1), np.int64)), 'images must be uint8 or floating; got int64'),
        (fake(image=np.zeros((20, 4, 4, 1))), 'fake/test: images must be float64, as those to train on; got uint8'),
        (Split(fake().image, fake().label.tolist()), "fake/train: label must be an array; got 'list'"),
        (fake(image=spoilt(np.nan)), 'fake/train: images must be finite; 1 of 14 are not, the first at index 11'),
        (fake(image=spoilt(-np.inf)), 'fake/train: images must be finite; 1 of 14 are not, the first at index 11'),
    ],
)
def test_bad_examples(train, message):
    with pytest.raises(ValueError, match=message):
        make_dataset('fake', train, fake(5), classes=3, held_out=6, scale=1.0)


@pytest.mark.parametrize('part', ['train', 'val', 'test'])
@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda s: s._replace(label=s.label + 1), 'labels of 10 classes run from 0 to 9; got 1 to 10; subtract 1'),
        (lambda s: s._replace(image=np.where(s.image > 15, np.inf, s.image)), 'images must be finite; .* at index 0'),
        (lambda s: Split(s.image[:0], s.label[:0]), 'must hold at least one example; got none'),
    ],
)
def test_a_data_set_made_by_hand_is_checked_before_training(tmp_path, part, spoil, message):
    data = load('digits')
    data = data._replace(**{part: spoil(getattr(data, part))})
    with pytest.raises(ValueError, match=f'digits/{part}:? {message}'):
        train(helpers.make_config(), tmp_path / 'never', data)
    assert not (tmp_path / 'never').exists()


def test_what_is_no_data_set(tmp_path):
    data = load('digits')
    with pytest.raises(TypeError, match='a data set must be a Dataset, as make_dataset returns it; got tuple'):
        train(helpers.make_config(), tmp_path, tuple(data))
    with pytest.raises(TypeError, match='digits/val must be a Split, Records or Text; got tuple'):
        train(helpers.make_config(), tmp_path, data._replace(val=tuple(data.val)))


def test_test_images_of_another_shape():
    test = Split(np.zeros((5, 3, 4, 1), np.uint8), np.zeros(5, np.int32))
    with pytest.raises(ValueError, match=r'fake/test: images must be .* of \(4, 4, 1\); got \(5, 3, 4, 1\)'):
        make_dataset('fake', fake(), test, classes=3, held_out=6, scale=1.0)


@pytest.mark.parametrize('held_out', [0, 20, 21])
def test_too_few_to_hold_out(held_out):
    with pytest.raises(ValueError, match=f'cannot hold {held_out} of 20'):
        make_dataset('fake', fake(), fake(5), classes=3, held_out=held_out, scale=1.0)


def test_unknown_data_set():
    with pytest.raises(
        ValueError, match="unknown data set 'minst'; known: mnist, cifar10, digits, fashion_mnist, imagenet2012"
    ):
        load('minst')


def test_a_folder_in_ones_home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"data_dir='{tmp_path}/sets'"):
        load('mnist', '~/sets')


def test_what_to_do_about_bad_examples():
    with pytest.raises(ValueError, match="bad_examples must be one of error, skip; got 'ignore'"):
        load('digits', bad_examples='ignore')
