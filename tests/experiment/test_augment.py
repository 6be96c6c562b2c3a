"""Crops and mirror images against NumPy loops."""

import jax
import numpy as np

from rlra_jax.experiment.augment import crop, make_augment

IMAGES = np.arange(6 * 5 * 4 * 2, dtype=np.float32).reshape(6, 5, 4, 2) + 1


def test_nothing_asked_for_is_nothing():
    assert make_augment(pad=0, flip=False) is None


def test_crop_matches_numpy_slices():
    offsets = np.array([[0, 0], [4, 4], [2, 2], [0, 3], [1, 4], [3, 2]])
    out = crop(IMAGES, offsets, 2)
    for one, image, (row, column) in zip(out, IMAGES, offsets, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        np.testing.assert_array_equal(one, padded[row : row + 5, column : column + 4])
    np.testing.assert_array_equal(out[2], IMAGES[2])


def test_every_offset_is_drawn_for_each_image_alone():
    """A lone bright pixel in the middle of an image tells where the crop was taken."""
    image = np.zeros((4000, 5, 5, 1), np.float32)
    image[:, 2, 2] = 1
    out = np.asarray(jax.jit(make_augment(pad=1, flip=False))(jax.random.key(0), image))
    _, rows, columns, _ = np.nonzero(out)
    counts = np.histogram2d(rows, columns, bins=(5, 5), range=((0, 5), (0, 5)))[0]
    assert counts[1:4, 1:4].sum() == 4000
    assert np.abs(counts[1:4, 1:4] - 4000 / 9).max() < 5 * np.sqrt(4000 / 9)


def test_about_half_of_the_images_are_mirrored_and_the_others_left_alone():
    image = np.tile(IMAGES[:1], (1000, 1, 1, 1))
    out = np.asarray(make_augment(pad=0, flip=True)(jax.random.key(1), image))
    mirrored = (out == IMAGES[0, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(out[~mirrored], image[~mirrored])
    assert abs(mirrored.sum() - 500) < 5 * np.sqrt(250)


def test_the_key_settles_everything():
    augment = make_augment(pad=2, flip=True)
    one, same, other = (np.asarray(augment(jax.random.key(seed), IMAGES)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)
