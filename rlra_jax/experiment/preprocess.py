"""From stored images to what the model sees, on the device: scaling, global contrast normalisation, ZCA whitening."""

import dataclasses
import functools
import hashlib
import logging
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.experiment.cache import cache_dir, cached
from rlra_jax.experiment.data import Dataset
from rlra_jax.experiment.records import Records
from rlra_jax.experiment.text import Text
from rlra_jax.types import Array
from rlra_jax.validate import require

_LOG = logging.getLogger(__name__)
_CHUNK = 1000  # images at a time
_FLAT = 1e-8  # added to an image's variance: an image without contrast stays 0
_ZCA_BIAS = 0.1  # added to each eigenvalue of the covariance: directions that hardly vary are noise
_LARGEST = 4096  # values of an image for which the whitening matrix is computed


class Whitening(NamedTuple):
    """ZCA: x -> (x - mean) U (S + bias)^(-1/2) U^T for the covariance U S U^T of the training images."""

    mean: Any  # float32 [n], n = height * width * channels
    matrix: Any  # float32 [n, n], symmetric


@functools.partial(jax.tree_util.register_dataclass, data_fields=['whitening'], meta_fields=['scale', 'contrast'])
@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Called on images `[B, height, width, channels]`, uint8 or floating; returns float32 of the same shape.

    A pytree, so that jitted functions take the whitening matrix as an argument, not as a constant.
    """

    scale: float | None  # image * scale lies in [0, 1]; None: tokens, which stay as they are
    contrast: bool = False
    whitening: Whitening | None = None

    def __call__(self, image: Array) -> Array:
        if self.scale is None:
            return image
        x = image.astype(jnp.float32) * self.scale
        if self.contrast:
            x = normalise_contrast(x)
        if self.whitening is not None:
            flat = x.reshape(x.shape[0], -1) - self.whitening.mean
            x = jnp.matmul(flat, self.whitening.matrix, precision=jax.lax.Precision.HIGHEST).reshape(x.shape)
        return x


def make_preprocess(dataset: Dataset, *, contrast: bool, zca: bool) -> Preprocess:
    """What a config asks for; the whitening is fitted to the training images once, and kept in the cache.

    Args:
      dataset: of which only the training images are looked at; or a text, which stays as it is.
      contrast: whether each image is normalised to mean 0 and standard deviation 1 (`normalise_contrast`).
      zca: whether images are whitened after that.

    Raises:
      ValueError: the images are too large for a whitening matrix, or are Records; or a text is to be preprocessed.
    """
    if isinstance(dataset.train, Text):
        require(not contrast and not zca, 'preprocess', 'off for a text', {'contrast': contrast, 'zca': zca})
        return Preprocess(None)
    before = Preprocess(dataset.scale, contrast)
    if not zca:
        return before
    what = f'False for {dataset.name}, which is read as training goes on'
    require(not isinstance(dataset.train, Records), 'preprocess.zca', what, zca)
    size = int(np.prod(dataset.train.shape))
    require(size <= _LARGEST, 'values of an image, for ZCA whitening,', f'at most {_LARGEST}', size)
    digest = hashlib.sha256(f'{dataset.sha256} {dataset.scale} {contrast} {_ZCA_BIAS}'.encode()).hexdigest()[:12]

    def fit() -> Whitening:
        _LOG.info('fitting the whitening matrix of %s, %d x %d', dataset.name, size, size)
        return fit_whitening(dataset.train.image, before)

    path = cache_dir() / f'{dataset.name}-zca-{digest}.npz'
    return dataclasses.replace(before, whitening=cached(path, load=_load, make=fit, save=_save))


def normalise_contrast(x: Array) -> Array:
    """Global contrast normalisation: each image `[B, ...]` minus its mean, over its standard deviation."""
    axes = tuple(range(1, x.ndim))
    x = x - x.mean(axis=axes, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=axes, keepdims=True) + _FLAT)


def fit_whitening(images: np.ndarray, before: Preprocess, bias: float = _ZCA_BIAS) -> Whitening:
    """Fits ZCA whitening.

    Args:
      images: `[N, height, width, channels]`.
      before: what is done to them first.
      bias: added to each eigenvalue of their covariance, above 0.
    """

    @jax.jit
    def moments(chunk):
        x = before(chunk).reshape(len(chunk), -1)
        return x.sum(axis=0), jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)

    size = images[0].size
    first, second = np.zeros(size), np.zeros((size, size))
    for start in range(0, len(images), _CHUNK):
        sums = moments(images[start : start + _CHUNK])
        first += np.asarray(sums[0], np.float64)
        second += np.asarray(sums[1], np.float64)
    mean = first / len(images)
    values, vectors = np.linalg.eigh(second / len(images) - np.outer(mean, mean))
    matrix = (vectors / np.sqrt(np.maximum(values, 0.0) + bias)) @ vectors.T
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))


def _load(path: pathlib.Path) -> Whitening:
    with path.open('rb') as file, np.load(file) as saved:
        return Whitening(jnp.asarray(saved['mean']), jnp.asarray(saved['matrix']))


def _save(path: pathlib.Path, whitening: Whitening) -> None:
    np.savez(path, mean=whitening.mean, matrix=whitening.matrix)
