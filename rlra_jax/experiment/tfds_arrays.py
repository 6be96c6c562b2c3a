"""TFDS sets as arrays: read once, without TensorFlow, and kept decoded as .npy files."""

import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from rlra_jax.experiment.cache import cache_dir, cached

Arrays = tuple[np.ndarray, np.ndarray]  # uint8 [N, height, width, channels], int32 [N]
_READ = 1000  # examples decoded at a time
_UNKNOWN_TO_TFDS = {'tiny_imagenet'}  # read where somebody prepared them; TFDS itself cannot


def read(name: str, splits: Sequence[str], data_dir: str | None) -> tuple[list[Arrays], int]:
    """Reads whole splits of a TFDS set into memory.

    Args:
      name: of the set.
      splits: their names in TFDS.
      data_dir: folder of prepared sets; None: $RLRA_DATA_DIR, else TFDS's own default.

    Returns:
      (uint8 [N, height, width, channels], int32 [N]) for each split, and the number of classes.

    Raises:
      FileNotFoundError: the set is not prepared in that folder; says how to prepare it.
      ModuleNotFoundError: a package that reads or decodes it is missing; says how to install it.
    """
    builder = open_builder(name, splits, data_dir)
    arrays = cached(
        cache_dir() / f'{name}-{fingerprint(builder)[:12]}',
        load=lambda folder: _load(folder, splits),
        make=lambda: [_decode(builder, split) for split in splits],
        save=lambda folder, made: _save(folder, splits, made),
    )
    return arrays, builder.info.features['label'].num_classes


def open_builder(name: str, splits: Sequence[str], data_dir: str | None) -> Any:
    """The TFDS builder of a set whose splits are prepared for random access; raises as `read` does."""
    data_dir = data_dir or os.environ.get('RLRA_DATA_DIR')
    data_dir = data_dir and os.path.expanduser(data_dir)  # a shell leaves the ~ of --config.data_dir=~/data alone
    require_module('tensorflow_datasets', 'tensorflow-datasets', f'{name} is read by TFDS')
    if not (importlib.util.find_spec('cv2') or importlib.util.find_spec('PIL')):
        raise ModuleNotFoundError(
            f'{name} holds compressed images, and no decoder is installed: pip install opencv-python-headless'
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise FileNotFoundError(
            _how_to_prepare(name, f'not prepared in {data_dir or "the default folder of TFDS"}', data_dir)
        ) from None
    if not builder.is_prepared():
        raise FileNotFoundError(_how_to_prepare(name, f'not prepared at {builder.data_path}', data_dir))
    if builder.info.file_format is None or builder.info.file_format.value != 'array_record':
        came = f'prepared at {builder.data_path} in a format without random access, {builder.info.file_format}'
        raise FileNotFoundError(_how_to_prepare(name, came, data_dir))
    missing = sorted(set(splits) - set(builder.info.splits))
    if missing:
        came = f'prepared at {builder.data_path} without its splits {missing}'
        raise FileNotFoundError(_how_to_prepare(name, came, data_dir))
    return builder


def require_module(module: str, package: str, reason: str) -> None:
    """Raises ModuleNotFoundError, saying how to install the package, unless the module can be imported."""
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f'{reason}, which is not installed: pip install {package}')


def _load(folder: pathlib.Path, splits: Sequence[str]) -> list[Arrays]:
    return [(np.load(folder / f'{split}_image.npy'), np.load(folder / f'{split}_label.npy')) for split in splits]


def _save(folder: pathlib.Path, splits: Sequence[str], arrays: Sequence[Arrays]) -> None:
    folder.mkdir()
    for split, (image, label) in zip(splits, arrays, strict=True):
        np.save(folder / f'{split}_image.npy', image)
        np.save(folder / f'{split}_label.npy', label)


def _decode(builder: Any, split: str) -> Arrays:
    source = builder.as_data_source(split)
    starts = tqdm(range(0, len(source), _READ), desc=f'decoding {builder.name}/{split}', disable=None)
    chunks = [source.__getitems__(list(range(s, min(s + _READ, len(source))))) for s in starts]
    examples = [example for chunk in chunks for example in chunk]
    image = np.stack([example['image'] for example in examples])
    return image, np.array([example['label'] for example in examples], np.int32)


def fingerprint(builder: Any) -> str:
    """SHA-256 over a prepared set's dataset_info.json and its files' names and sizes, but not what they hold.

    Tells preparations apart that share a name, such as a recompressed copy.
    """
    path = pathlib.Path(builder.data_path)
    digest = hashlib.sha256((path / 'dataset_info.json').read_bytes())
    for file in sorted(path.iterdir()):
        digest.update(f'{file.name}:{file.stat().st_size};'.encode())
    return digest.hexdigest()


def _how_to_prepare(name: str, state: str, data_dir: str | None) -> str:
    elsewhere = (
        f'{name} is {state}. If it is elsewhere as array_record, name the folder above it in $RLRA_DATA_DIR or '
        '--config.data_dir.'
    )
    if name in _UNKNOWN_TO_TFDS:
        return f'{elsewhere} TFDS cannot prepare this set by itself: it has no builder of that name.'
    where = f', data_dir={data_dir!r}' if data_dir else ''
    call = f"tfds.builder('{name}'{where}, file_format='array_record').download_and_prepare()"
    needs = [m for m in ('tensorflow', 'importlib_resources') if importlib.util.find_spec(m) is None]
    install = f'pip install {" ".join(needs)} && ' if needs else ''
    return (
        f'{elsewhere} To download and prepare it once, which needs TensorFlow (training does not):\n'
        f'  {install}python -c "import tensorflow_datasets as tfds; {call}"'
    )
