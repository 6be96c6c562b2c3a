"""TFDS sets as arrays: read once, without TensorFlow, images kept decoded in an .npz file; and texts."""

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlra_jax.experiment.cache import cache_dir, cached
from rlra_jax.experiment.packed import pack, unpack
from rlra_jax.experiment.progress import progress
from rlra_jax.experiment.source import BadExampleError, Source, open_source

_LOG = logging.getLogger(__name__)

Arrays = tuple[np.ndarray, np.ndarray]  # uint8 [N, height, width, channels], int32 [N]

_READ = 1000  # examples decoded at a time
_TOLD = 10  # examples of a split that a warning names; the others are counted
_UNKNOWN_TO_TFDS = {'tiny_imagenet'}  # read where somebody prepared them; TFDS itself cannot


def read(
    name: str, splits: Sequence[str], data_dir: str | None, bad_examples: str = 'error'
) -> tuple[list[Arrays], int]:
    """Reads whole splits of a TFDS set into memory.

    Args:
      name: of the set.
      splits: their names in TFDS.
      data_dir: folder of prepared sets, or of ones packed by `pack_set`; None: $RLRA_DATA_DIR, else TFDS's own default.
      bad_examples: what to do about those that cannot be read: 'error', or 'skip' to leave them out with a warning.

    Returns:
      (uint8 [N, height, width, channels], int32 [N]) for each split, and the number of classes.

    Raises:
      FileNotFoundError: the set is not prepared in that folder; says how to prepare it.
      ModuleNotFoundError: a package that reads or decodes it is missing; says how to install it.
      ValueError: one of its files is damaged; says which, and at which example.
    """
    folder = _data_dir(data_dir)
    if folder and (path := pathlib.Path(folder) / f'{name}.npz').exists():
        sources, classes = unpack(path, splits)
        return [_decode(source, classes, bad_examples) for source in sources], classes
    builder = open_builder(name, splits, data_dir)
    classes = builder.info.features['label'].num_classes
    skips = '-skip' if bad_examples == 'skip' else ''
    arrays = cached(
        cache_dir() / f'{name}-{fingerprint(builder)[:12]}{skips}.npz',
        load=lambda file: _load(file, splits),
        make=lambda: [_decode(open_source(builder, name, split), classes, bad_examples) for split in splits],
        save=lambda file, made: _save(file, splits, made),
    )
    for split, (_, label) in zip(splits, arrays, strict=True):
        there = builder.info.splits[split].num_examples
        if len(label) < there:
            _LOG.warning(
                '%s/%s lacks %d of its %d examples, which cannot be read', name, split, there - len(label), there
            )
    return arrays, classes


def pack_set(name: str, splits: Sequence[str], path: pathlib.Path, data_dir: str | None = None) -> None:
    """Packs splits of a set of images into a file, which `read` takes in the set's place; raises as `read` does."""
    builder = open_builder(name, splits, data_dir)
    import tensorflow_datasets as tfds

    encoded = {'image': tfds.decode.SkipDecoding()}
    sources = {split: open_source(builder, name, split, decoders=encoded) for split in splits}
    features = builder.info.features
    pack(path, sources, classes=features['label'].num_classes, channels=features['image'].shape[-1])


def read_texts(name: str, splits: Sequence[str], data_dir: str | None) -> list[str]:
    """Whole splits of a TFDS set of texts, the examples of a split one after the other; raises as `read` does."""
    builder = open_builder(name, splits, data_dir, feature='text')
    sources = [open_source(builder, name, split) for split in splits]
    return [b''.join(source[i]['text'] for i in range(len(source))).decode('utf-8') for source in sources]


def open_builder(name: str, splits: Sequence[str], data_dir: str | None, feature: str = 'label') -> Any:
    """The TFDS builder of a set whose splits are prepared for random access; raises as `read` does.

    Args:
      name: of the set.
      splits: those that it must have.
      data_dir: as in `read`.
      feature: what its examples must have: 'label' of images, or 'text'.
    """
    data_dir = _data_dir(data_dir)
    require_module('tensorflow_datasets', 'tensorflow-datasets', f'{name} is read by TFDS')
    if feature == 'label' and not (importlib.util.find_spec('cv2') or importlib.util.find_spec('PIL')):
        raise ModuleNotFoundError(
            f'{name} holds compressed images, and no decoder is installed: pip install opencv-python-headless'
        )
    import tensorflow_datasets as tfds

    folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR) / name
    try:
        with _described_in(folder):
            builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise FileNotFoundError(
            _how_to_prepare(name, f'not prepared in {data_dir or "the default folder of TFDS"}', data_dir)
        ) from None
    if not builder.is_prepared():
        raise FileNotFoundError(_how_to_prepare(name, f'not prepared at {builder.data_path}', data_dir))
    with _described_in(folder):
        described = builder.info.features[feature]
        if feature == 'label':
            described.num_classes  # noqa: B018
    if builder.info.file_format is None or builder.info.file_format.value != 'array_record':
        came = f'prepared at {builder.data_path} in a format without random access, {builder.info.file_format}'
        raise FileNotFoundError(_how_to_prepare(name, came, data_dir))
    missing = sorted(set(splits) - set(builder.info.splits))
    if missing:
        came = f'prepared at {builder.data_path} without its splits {missing}'
        raise FileNotFoundError(_how_to_prepare(name, came, data_dir))
    return builder


def _data_dir(data_dir: str | None) -> str | None:
    data_dir = data_dir or os.environ.get('RLRA_DATA_DIR')
    return data_dir and os.path.expanduser(data_dir)  # a shell leaves the ~ of --config.data_dir=~/data alone


def require_module(module: str, package: str, reason: str) -> None:
    """Raises ModuleNotFoundError, saying how to install the package, unless the module can be imported."""
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f'{reason}, which is not installed: pip install {package}')


@contextlib.contextmanager
def _described_in(folder: pathlib.Path) -> Iterator[None]:
    """One clear error, whatever the parsers of a set's description raise."""
    import tensorflow_datasets as tfds

    try:
        yield
    except tfds.core.DatasetNotFoundError:
        raise
    except Exception as error:
        damaged = [str(path) for path in sorted(folder.rglob('*.json')) if not _is_dictionary(path)]
        where = ' and '.join(damaged) or f'the description of the data set in {folder}'
        raise ValueError(f'{where} cannot be read; copy it anew, or prepare the set anew ({error})') from error


def _is_dictionary(path: pathlib.Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _load(file: pathlib.Path, splits: Sequence[str]) -> list[Arrays]:
    """A zip archive has checksums, so that what has changed since it was written raises."""
    with file.open('rb') as opened, np.load(opened) as saved:
        arrays = [(saved[f'{split}_image'], saved[f'{split}_label']) for split in splits]
    for image, label in arrays:
        if (image.dtype, image.ndim, label.dtype, label.shape) != (np.uint8, 4, np.int32, image.shape[:1]):
            raise ValueError('it does not hold images and their labels')
    return arrays


def _save(file: pathlib.Path, splits: Sequence[str], arrays: Sequence[Arrays]) -> None:
    named: dict[str, Any] = {}
    for split, (image, label) in zip(splits, arrays, strict=True):
        named |= {f'{split}_image': image, f'{split}_label': label}
    np.savez(file, **named)


def _decode(source: Source, classes: int, bad_examples: str) -> Arrays:
    """All examples of a split, or those that can be read."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    problems: list[BadExampleError] = []
    starts = range(0, len(source), _READ)
    for start in progress(starts, f'decoding {source.name}', total=len(starts), unit='part'):
        indices = range(start, min(start + _READ, len(source)))
        for index, example in zip(indices, source.together(indices), strict=True):
            if isinstance(example, BadExampleError):
                problems.append(example)
            elif why := _useless(example, images, classes):
                problems.append(source.bad(index, why))
            else:
                images.append(example['image'])
                labels.append(example['label'])
                continue
            if bad_examples == 'error':
                raise problems[-1]
            if len(problems) <= _TOLD:
                _LOG.warning('%s', problems[-1])
    if not images:
        first = f'; the first: {problems[0]}' if problems else ''
        raise ValueError(f'{source.name} must hold an example that can be read; got {len(source)} that cannot{first}')
    return np.stack(images), np.array(labels, np.int32)


def _useless(example: dict[str, Any], others: Sequence[np.ndarray], classes: int) -> str | None:
    """Why an example cannot stand beside the others, if so."""
    shape = example['image'].shape
    if others and shape != others[0].shape:
        return f'its image must be of shape {others[0].shape}, as those before; got {shape}'
    if not 0 <= example['label'] < classes:
        return f'its label must be from 0 to {classes - 1}; got {example["label"]}'
    return None


def fingerprint(builder: Any) -> str:
    """SHA-256 over a prepared set's dataset_info.json and its files' names and sizes, but not what they hold.

    Folders and hidden files, which others put there, do not count.
    Tells preparations apart that share a name, such as a recompressed copy.
    """
    path = pathlib.Path(builder.data_path)
    digest = hashlib.sha256((path / 'dataset_info.json').read_bytes())
    for file in sorted(own for own in path.iterdir() if own.is_file() and not own.name.startswith('.')):
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
