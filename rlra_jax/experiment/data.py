"""Data sets, split into training, validation and test data: embedded digits, and TFDS sets.

Arrays stay on the device for a whole run, images as uint8, and `Records` in their files; `preprocess.py` makes of
images what the model sees.
"""

import dataclasses
import hashlib
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlra_jax.experiment import tfds_arrays
from rlra_jax.experiment.records import Records, open_records
from rlra_jax.experiment.source import BAD_EXAMPLES
from rlra_jax.experiment.text import Text, alphabet_of, check_text, encode, sha256_of
from rlra_jax.validate import lookup, require, require_count, require_number

DATASETS = {  # what `load` knows, and what it holds
    'cifar10': '50,000 and 10,000 photographs of 32 x 32 in 10 classes.',
    'digits': "scikit-learn's 1,797 handwritten digits of 8 x 8, embedded: nothing is downloaded.",
    'fashion_mnist': '60,000 and 10,000 grey pictures of clothes, of 28 x 28 in 10 classes.',
    'imagenet2012': '1,281,167 and 50,000 photographs in 1,000 classes, read as training goes on.',
    'mnist': '60,000 and 10,000 handwritten digits of 28 x 28.',
    'tiny_imagenet': '100,000 and 10,000 photographs of 64 x 64 in 200 classes.',
    'tiny_shakespeare': 'about a million characters of plays, read in windows.',
}
_TFDS_SETS = {  # name -> (training examples held out for validation, the split to test on)
    'cifar10': (5000, 'test'),  # as the paper
    'fashion_mnist': (2000, 'test'),  # as the paper
    'mnist': (2000, 'test'),  # as the paper
    'tiny_imagenet': (3600, 'validation'),  # the labels of its test split were never published
}
_RECORDS = {'imagenet2012': 'validation'}  # name -> the split to test on; TFDS sets that are read as training goes on
_TEXTS = {'tiny_shakespeare': ('train', 'validation', 'test')}  # name -> its splits
_HELD_OUT = 25  # one in so many of their training examples is held out for validation: the last ones


class Split(NamedTuple):
    """Examples as arrays."""

    image: Any  # uint8 or floating [N, height, width, channels]
    label: Any  # int32 [N]

    @property
    def reads(self) -> str:
        """The entry of a batch that models are called on."""
        return 'image'

    @property
    def size(self) -> int:
        """How many examples there are."""
        return len(self.label)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[height, width, channels] of an example's image."""
        return self.image.shape[1:]

    @property
    def dtype(self) -> Any:
        """Of an example's image, as stored."""
        return self.image.dtype

    def part(self, start: int | None, stop: int | None) -> 'Split':
        """The examples [start:stop]."""
        return Split(self.image[start:stop], self.label[start:stop])


class Dataset(NamedTuple):
    """A data set whose validation part is held out of the training data.

    For other examples make another, with `make_dataset` or `make_text`: `_replace` would keep the hash of the old ones,
    by which runs and whitening know their data.
    """

    name: str
    train: Any  # a Split, Records or a Text; so are the others
    val: Any
    test: Any
    classes: int
    scale: float  # image * scale lies in [0, 1]
    sha256: str  # over images and labels, or tokens, of all three splits; of Records, see `open_records`
    alphabet: str = ''  # of texts: what tokens stand for

    @property
    def meaning(self) -> dict[str, Any]:
        """What its numbers mean, which sha256 does not know of."""
        return {'scale': self.scale, 'classes': self.classes, 'alphabet': self.alphabet}


def load(name: str, data_dir: str | None = None, bad_examples: str = 'error') -> Dataset:
    """Loads a data set.

    Args:
      name: one of `DATASETS`; splits of 'imagenet2012' are Records, of 'tiny_shakespeare' Texts.
      data_dir: folder of prepared TFDS sets; else $RLRA_DATA_DIR, else TFDS's own default.
      bad_examples: what to do about those that cannot be read: 'error', or 'skip' to go on without, with a warning.

    Raises:
      ValueError: the name is unknown, or a file is damaged; says which, and at which example.
      FileNotFoundError: the set is not prepared in that folder; says how to prepare it.
      ModuleNotFoundError: a package that reads or decodes it is missing; says how to install it.
    """
    lookup(DATASETS, name, 'data set')
    require(bad_examples in BAD_EXAMPLES, 'bad_examples', f'one of {", ".join(BAD_EXAMPLES)}', bad_examples)
    if name == 'digits':
        return _digits()
    if name in _RECORDS:
        return _records(name, data_dir, bad_examples)
    if name in _TEXTS:
        return make_text(name, *tfds_arrays.read_texts(name, _TEXTS[name], data_dir))
    held_out, test = _TFDS_SETS[name]
    arrays, classes = tfds_arrays.read(name, ('train', test), data_dir, bad_examples)
    splits = [Split(image, label) for image, label in arrays]
    return make_dataset(name, *splits, classes=classes, held_out=held_out, scale=1 / 255)


def pack_dataset(name: str, path: pathlib.Path, data_dir: str | None = None) -> None:
    """Writes a TFDS set of small images into a file, NAME.npz, whose folder `load` then takes as data_dir without TFDS.

    Raises:
      ValueError: the set is no such one.
      FileNotFoundError, ModuleNotFoundError: as `load`.
    """
    _, test = lookup(_TFDS_SETS, name, 'data set of small images')
    tfds_arrays.pack_set(name, ('train', test), path, data_dir)


def make_dataset(name: str, train: Split, test: Split, *, classes: int, held_out: int, scale: float) -> Dataset:
    """Splits the last `held_out` training examples off for validation, and checks everything.

    Raises:
      ValueError: images or labels of a wrong shape, type or range, or too few examples to hold out.
    """
    dataset = Dataset(name, **_hold_out(name, train, held_out), test=test, classes=classes, scale=scale, sha256='')
    check_dataset(dataset)
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.val, dataset.test):
        digest.update(np.ascontiguousarray(split.image).tobytes())
        digest.update(np.ascontiguousarray(split.label, dtype=np.int32).tobytes())
    return dataset._replace(sha256=digest.hexdigest())


def make_text(name: str, train: str, val: str, test: str, *, context: int = 64) -> Dataset:
    """A text to be learned character by character; the alphabet is that of its training part.

    Args:
      name: of the data set.
      train: to train on.
      val: to validate on.
      test: to test on.
      context: how many characters a model sees at once; a run takes its model's (`with_context`).

    Raises:
      ValueError: a part is too short, or the training part lacks a character that another has.
    """
    alphabet = alphabet_of(train)
    parts = {'train': train, 'val': val, 'test': test}
    splits = {part: Text(encode(text, alphabet, f'{name}/{part}'), context) for part, text in parts.items()}
    dataset = Dataset(
        name, **splits, classes=len(alphabet), scale=1.0, sha256=sha256_of(*splits.values()), alphabet=alphabet
    )
    check_dataset(dataset)
    return dataset


def with_context(dataset: Dataset, context: int) -> Dataset:
    """The same text in windows of another length.

    Raises:
      ValueError: the training part is shorter.
    """
    require_count('model.context', context)
    length = len(dataset.train.tokens)
    require(context < length, 'model.context', f'below {length}, the characters of {dataset.name}', context)
    parts = {part: getattr(dataset, part) for part in ('train', 'val', 'test')}
    return dataset._replace(**{part: dataclasses.replace(text, context=context) for part, text in parts.items()})


def check_dataset(dataset: Dataset) -> None:
    """Checks what a model could not learn from, in data sets that are made by hand as in those that are loaded.

    Records are checked example by example, as they are read.

    Raises:
      ValueError: images or labels of a wrong shape, type or range, images that are not finite, or an empty split; says
        in which split, and at which index.
      TypeError: it is no Dataset, or a part of it neither Split, Records nor Text.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f'a data set must be a Dataset, as make_dataset returns it; got {type(dataset).__name__}')
    require_count('classes', dataset.classes)
    require_number('scale', dataset.scale, 0, above=True)
    for part in ('train', 'val', 'test'):
        split = getattr(dataset, part)
        if not isinstance(split, Split | Records | Text):
            raise TypeError(f'{dataset.name}/{part} must be a Split, Records or Text; got {type(split).__name__}')
        if isinstance(split, Split):
            _check_split(f'{dataset.name}/{part}', split, dataset.train, dataset.classes)
        elif isinstance(split, Text):
            check_text(f'{dataset.name}/{part}', split, dataset.classes)
        elif not split.size:
            raise ValueError(f'{dataset.name}/{part} must hold at least one example; got none')


def first_examples(dataset: Dataset, count: int) -> Dataset:
    """The data set with only the first `count` training examples, or as it is for 0; its hash tells them apart.

    Raises:
      ValueError: there are fewer, or count is not a whole number of at least 0.
    """
    available = dataset.train.size
    require_count('train_examples', count, low=0)
    require(count <= count <= available, 'train_examples', f'from 0, for all, to {available}', count)
    if not count:
        return dataset
    *kind, _ = dataset.sha256.split(':')
    digest = ':'.join([*kind, hashlib.sha256(f'{dataset.sha256} {count}'.encode()).hexdigest()])
    return dataset._replace(train=dataset.train.part(0, count), sha256=digest)


def _hold_out(name: str, train: Any, count: int) -> dict[str, Any]:
    if not 0 < count < train.size:
        raise ValueError(f'{name}: cannot hold {count} of {train.size} training examples out for validation')
    return {'train': train.part(None, -count), 'val': train.part(-count, None)}


def _records(name: str, data_dir: str | None, bad_examples: str) -> Dataset:
    splits = 'train', _RECORDS[name]
    (train, test), classes, digest = open_records(name, splits, data_dir, bad_examples=bad_examples)
    parts = _hold_out(name, train, train.size // _HELD_OUT)
    dataset = Dataset(name, **parts, test=test, classes=classes, scale=1 / 255, sha256=digest)
    check_dataset(dataset)
    return dataset


def _check_split(name: str, split: Split, train: Split, classes: int) -> None:
    for what, came in split._asdict().items():
        require(hasattr(came, 'shape') and hasattr(came, 'dtype'), f'{name}: {what}', 'an array', type(came).__name__)
    image, label = np.asarray(split.image), np.asarray(split.label)
    if image.ndim != 4 or image.shape[1:] != train.shape:
        raise ValueError(f'{name}: images must be [N, height, width, channels] of {train.shape}; got {image.shape}')
    if not (image.dtype == np.uint8 or jnp.issubdtype(image.dtype, jnp.floating)):
        raise ValueError(f'{name}: images must be uint8 or floating; got {image.dtype}')
    if label.shape != image.shape[:1] or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f'{name}: {len(image)} images need as many integer labels; got {label.dtype} {label.shape}')
    if not len(image):
        raise ValueError(f'{name} must hold at least one example; got none')
    if not 0 <= label.min() <= label.max() < classes:
        hint = '; subtract 1' if (label.min(), label.max()) == (1, classes) else ''
        raise ValueError(
            f'{name}: labels of {classes} classes run from 0 to {classes - 1}; got {label.min()} to {label.max()}{hint}'
        )
    if image.dtype != np.uint8 and (bad := np.flatnonzero(~np.isfinite(image).all(axis=(1, 2, 3)))).size:
        raise ValueError(
            f'{name}: images must be finite; {bad.size} of {len(image)} are not, the first at index {bad[0]}'
        )
    if (image.dtype == np.uint8) != (train.dtype == np.uint8):
        raise ValueError(f'{name}: images must be {train.dtype}, as those to train on; got {image.dtype}')


def _digits() -> Dataset:
    """Shuffled once by a fixed seed: 1,197 to train, 200 to validate, 400 to test."""
    tfds_arrays.require_module('sklearn', 'scikit-learn', 'The embedded digits come with scikit-learn')
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    image = raw.images.astype(np.uint8)[order, :, :, None]
    label = raw.target.astype(np.int32)[order]
    train, test = Split(image[:-400], label[:-400]), Split(image[-400:], label[-400:])
    return make_dataset('digits', train, test, classes=10, held_out=200, scale=1 / 16)
