"""Data sets as arrays: embedded digits, and TFDS sets read once and kept decoded as .npy files.

Small sets stay on the device for a whole run, as uint8; the training step scales them to [0, 1].
"""

import hashlib
import importlib.util
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from rlra_jax.validate import lookup

_TFDS_SETS = {'mnist': 2000, 'fashion_mnist': 2000, 'cifar10': 5000}  # name -> training examples held out, as the paper
_READ = 1000  # examples decoded at a time


class Split(NamedTuple):
    """Examples as arrays."""

    image: Any  # uint8 or floating [N, height, width, channels]
    label: Any  # int32 [N]


class Dataset(NamedTuple):
    """A data set whose validation part is held out of the training data."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: int
    scale: float  # image * scale lies in [0, 1]
    sha256: str  # over images and labels of all three splits


def load(name: str, data_dir: str | None = None) -> Dataset:
    """Loads a data set.

    Args:
      name: 'digits' (embedded: scikit-learn's 1,797 images of 8x8), 'mnist', 'fashion_mnist' or 'cifar10'.
      data_dir: folder of prepared TFDS sets; else $RLRA_DATA_DIR, else TFDS's own default.

    Raises:
      ValueError: the name is unknown.
      FileNotFoundError: the set is not prepared in that folder; says how to prepare it.
      ModuleNotFoundError: a package that reads or decodes it is missing; says how to install it.
    """
    loader = lookup({'digits': None, **_TFDS_SETS}, name, 'data set')
    if loader is None:
        return _digits()
    train, test, classes = _tfds(name, data_dir or os.environ.get('RLRA_DATA_DIR'))
    return make_dataset(name, train, test, classes=classes, held_out=loader, scale=1 / 255)


def make_dataset(name: str, train: Split, test: Split, *, classes: int, held_out: int, scale: float) -> Dataset:
    """Splits the last `held_out` training examples off for validation, and checks everything.

    Raises:
      ValueError: images or labels of a wrong shape, type or range, or too few examples to hold out.
    """
    if not 0 < held_out < len(train.label):
        raise ValueError(f'{name}: cannot hold {held_out} of {len(train.label)} training examples out for validation')
    parts = {
        'train': Split(train.image[:-held_out], train.label[:-held_out]),
        'val': Split(train.image[-held_out:], train.label[-held_out:]),
        'test': test,
    }
    digest = hashlib.sha256()
    for part, split in parts.items():
        _check_split(f'{name}/{part}', split, train.image.shape[1:], classes)
        digest.update(np.ascontiguousarray(split.image).tobytes())
        digest.update(np.ascontiguousarray(split.label, dtype=np.int32).tobytes())
    return Dataset(name, **parts, classes=classes, scale=scale, sha256=digest.hexdigest())


def _check_split(name: str, split: Split, shape: tuple[int, ...], classes: int) -> None:
    image, label = split
    if image.ndim != 4 or image.shape[1:] != shape:
        raise ValueError(f'{name}: images must be [N, height, width, channels] of {shape}; got {image.shape}')
    if label.shape != image.shape[:1] or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f'{name}: {len(image)} images need as many integer labels; got {label.dtype} {label.shape}')
    if len(label) and not 0 <= label.min() <= label.max() < classes:
        raise ValueError(
            f'{name}: labels of {classes} classes run from 0 to {classes - 1}; got {label.min()} to {label.max()}'
        )


def _digits() -> Dataset:
    """Shuffled once by a fixed seed: 1,197 to train, 200 to validate, 400 to test."""
    _require_module('sklearn', 'scikit-learn', 'The embedded digits come with scikit-learn')
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    image = raw.images.astype(np.uint8)[order, :, :, None]
    label = raw.target.astype(np.int32)[order]
    train, test = Split(image[:-400], label[:-400]), Split(image[-400:], label[-400:])
    return make_dataset('digits', train, test, classes=10, held_out=200, scale=1 / 16)


def _tfds(name: str, data_dir: str | None) -> tuple[Split, Split, int]:
    _require_module('tensorflow_datasets', 'tensorflow-datasets', f'{name} is read by TFDS')
    if not (importlib.util.find_spec('cv2') or importlib.util.find_spec('PIL')):
        raise ModuleNotFoundError(
            f'{name} holds compressed images, and no decoder is installed: pip install opencv-python-headless'
        )
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        raise FileNotFoundError(_how_to_prepare(name, f'not prepared at {builder.data_path}', data_dir))
    if builder.info.file_format is None or builder.info.file_format.value != 'array_record':
        came = f'prepared at {builder.data_path} in a format without random access, {builder.info.file_format}'
        raise FileNotFoundError(_how_to_prepare(name, came, data_dir))
    folder = _cache_dir() / f'{name}-{_fingerprint(pathlib.Path(builder.data_path))}'
    if not folder.is_dir():
        _decode(builder, folder)
    splits = [
        Split(*(np.load(folder / f'{part}_{field}.npy') for field in Split._fields)) for part in ('train', 'test')
    ]
    return splits[0], splits[1], builder.info.features['label'].num_classes


def _decode(builder: Any, folder: pathlib.Path) -> None:
    """Writes the decoded splits to a temporary folder and renames it, so that a kill leaves no half cache."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        part_folder = pathlib.Path(scratch) / 'parts'
        part_folder.mkdir()
        for part in ('train', 'test'):
            source = builder.as_data_source(part)
            starts = tqdm(range(0, len(source), _READ), desc=f'decoding {builder.name}/{part}', disable=None)
            chunks = [source.__getitems__(list(range(s, min(s + _READ, len(source))))) for s in starts]
            examples = [example for chunk in chunks for example in chunk]
            np.save(part_folder / f'{part}_image.npy', np.stack([example['image'] for example in examples]))
            np.save(part_folder / f'{part}_label.npy', np.array([example['label'] for example in examples], np.int32))
        try:
            part_folder.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise


def _fingerprint(path: pathlib.Path) -> str:
    """Tells preparations apart that share a name, such as a recompressed copy."""
    digest = hashlib.sha256((path / 'dataset_info.json').read_bytes())
    for file in sorted(path.iterdir()):
        digest.update(f'{file.name}:{file.stat().st_size};'.encode())
    return digest.hexdigest()[:12]


def _cache_dir() -> pathlib.Path:
    base = os.environ.get('RLRA_CACHE_DIR')
    return pathlib.Path(base) if base else pathlib.Path.home() / '.cache' / 'rlra_jax'


def _require_module(module: str, package: str, reason: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f'{reason}, which is not installed: pip install {package}')


def _how_to_prepare(name: str, state: str, data_dir: str | None) -> str:
    where = f', data_dir={data_dir!r}' if data_dir else ''
    call = f"tfds.builder('{name}'{where}, file_format='array_record').download_and_prepare()"
    needs = [m for m in ('tensorflow', 'importlib_resources') if importlib.util.find_spec(m) is None]
    install = f'pip install {" ".join(needs)} && ' if needs else ''
    return (
        f'{name} is {state}. If it is elsewhere as array_record, name the folder above it in $RLRA_DATA_DIR or '
        f'--config.data_dir. To download and prepare it once, which needs TensorFlow (training does not):\n'
        f'  {install}python -c "import tensorflow_datasets as tfds; {call}"'
    )
