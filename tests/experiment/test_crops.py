"""Where crops lie: seen on an image whose pixels say where they are."""

import numpy as np
import pytest

from rlra_jax.experiment.crops import centre_crop, random_crop


def ramp(height, width):
    """Red grows downwards, green to the right, from 0 to 250."""
    down, right = np.mgrid[0 : 250 : height * 1j, 0 : 250 : width * 1j]
    return np.stack([down, right, 0 * down], axis=-1).astype(np.uint8)


def extent(crop):
    """Shares of the image's height and width that a crop of a ramp covers."""
    return [(crop[..., axis].max() - float(crop[..., axis].min())) / 250 for axis in (0, 1)]


def test_random_crops_cover_what_they_should():
    crops = [random_crop(ramp(500, 400), 64, np.random.default_rng(i)) for i in range(300)]
    assert {crop.shape for crop in crops} == {(64, 64, 3)}
    height, width = np.array([extent(crop) for crop in crops]).T
    area, ratio = height * width, width * 400 / (height * 500)
    assert 0.06 < area.min() < 0.12  # resizing trims the edges
    assert 0.9 < area.max() <= 1
    assert abs(area.mean() - 0.5) < 0.05  # (0.08 + 1) / 2, less the large ones that do not fit
    assert 0.7 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.4
    top = np.array([crop[..., 0].min() for crop in crops]) / 250
    assert top[height < 0.5].min() < 0.05
    assert (top + height)[height < 0.5].max() > 0.95


def test_an_image_that_no_random_crop_fits_gives_its_middle():
    crop = random_crop(ramp(10, 4000), 16, np.random.default_rng(0))
    np.testing.assert_array_equal(crop, centre_crop(ramp(10, 4000), 16))


@pytest.mark.parametrize('shape', [(300, 400), (400, 300), (60, 90), (224, 224), (1, 1)])
def test_the_centre_crop_is_the_middle(shape):
    crop = centre_crop(ramp(*shape), 32)
    assert crop.shape == (32, 32, 3)
    shares = [224 / 256 * min(shape) / length for length in shape]
    if shape != (1, 1):
        np.testing.assert_allclose(extent(crop), shares, atol=0.06)
        np.testing.assert_allclose(crop.mean(axis=(0, 1)), [125, 125, 0], atol=3)
