"""Contrast normalisation and whitening against plain NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlra_jax.experiment import preprocess
from rlra_jax.experiment.data import Split, make_dataset
from rlra_jax.experiment.preprocess import Preprocess, fit_whitening, make_preprocess


def images(count, seed=0, shape=(4, 3, 2)):
    """Correlated, as neighbouring pixels are."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(0, 20, (count, *shape)).cumsum(axis=1).cumsum(axis=2)
    return (128 + drift).clip(0, 255).astype(np.uint8)


def dataset(count=1500):
    label = np.zeros(count, np.int32)
    test = Split(images(40, seed=1), label[:40])
    return make_dataset('fake', Split(images(count), label), test, classes=2, held_out=100, scale=1 / 255)


def contrast(image):
    """In float64 NumPy."""
    x = image.reshape(len(image), -1) / 255.0
    x = x - x.mean(axis=1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-8)


def test_only_scales_unless_asked_for_more():
    made = make_preprocess(dataset(), contrast=False, zca=False)
    out = made(images(5))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, images(5) / 255.0, rtol=1e-6)


def test_contrast_normalised_images_have_mean_0_and_norm_root_n():
    out = np.asarray(make_preprocess(dataset(), contrast=True, zca=False)(images(7))).reshape(7, -1)
    np.testing.assert_allclose(out.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), np.sqrt(24), rtol=1e-4)
    np.testing.assert_allclose(out, contrast(images(7)), atol=1e-5)


def test_an_image_without_contrast_stays_near_0():
    out = Preprocess(1 / 255, contrast=True)(np.full((1, 4, 3, 2), 77, np.uint8))
    assert np.abs(out).max() < 0.01


@pytest.mark.parametrize('bias', [1e-3, 0.1])
def test_whitened_covariance_is_the_identity_up_to_the_bias(bias):
    """An eigenvalue s of the covariance becomes s / (s + bias), along the same direction."""
    train = images(2500)
    made = Preprocess(1 / 255, True, fit_whitening(train, Preprocess(1 / 255, True), bias))
    x = contrast(train)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values = values.clip(0)  # normalised images have no mean, so one direction is empty
    out = np.asarray(made(train)).reshape(len(train), -1)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(out.T, bias=True)
    np.testing.assert_allclose(covariance, (vectors * (values / (values + bias))) @ vectors.T, atol=2e-3)
    assert np.abs(np.cov(x.T, bias=True) - np.eye(24)).max() > 0.5
    np.testing.assert_allclose(made.whitening.matrix, made.whitening.matrix.T, atol=1e-4)  # zero phase


def test_whitening_is_fitted_to_training_images_alone_and_once(tmp_path, monkeypatch):
    monkeypatch.setenv('RLRA_CACHE_DIR', str(tmp_path))
    data = dataset()
    made = make_preprocess(data, contrast=True, zca=True)
    expected = fit_whitening(data.train.image, Preprocess(data.scale, True))
    np.testing.assert_array_equal(made.whitening.matrix, expected.matrix)
    assert np.abs(fit_whitening(images(1500), Preprocess(data.scale, True)).matrix - expected.matrix).max() > 1e-3
    assert len(list(tmp_path.iterdir())) == 1
    (file,) = tmp_path.iterdir()
    for damage in (b'', file.read_bytes()[:100]):  # makes it anew
        file.write_bytes(damage)
        again = make_preprocess(data, contrast=True, zca=True)
        np.testing.assert_array_equal(again.whitening.matrix, made.whitening.matrix)
    darker = make_preprocess(data._replace(scale=data.scale / 2), contrast=False, zca=True)
    brighter = make_preprocess(data, contrast=False, zca=True)
    assert np.abs(darker.whitening.matrix - brighter.whitening.matrix).max() > 1e-3
    monkeypatch.setattr(preprocess, 'fit_whitening', lambda *args: pytest.fail('fitted twice'))
    again = make_preprocess(data, contrast=True, zca=True)
    np.testing.assert_array_equal(again.whitening.matrix, made.whitening.matrix)


def test_too_large_to_whiten():
    large = Split(np.zeros((3, 64, 64, 3), np.uint8), np.zeros(3, np.int32))
    data = make_dataset('large', large, large, classes=1, held_out=1, scale=1.0)
    with pytest.raises(ValueError, match=r'ZCA whitening, must be at most 4096; got 12288'):
        make_preprocess(data, contrast=False, zca=True)
