"""TFDS sets too large for memory: grain reads, decodes and crops the examples of each batch as it is needed."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rlra_jax.experiment.crops import centre_crop, decode, random_crop
from rlra_jax.experiment.source import BadExampleError, open_source
from rlra_jax.experiment.tfds_arrays import fingerprint, open_builder, require_module
from rlra_jax.validate import require

_LOG = logging.getLogger(__name__)
_SIDE = 224  # of the images that models see
_AHEAD = 2  # whole batches kept ready
_TRIES = 100  # examples tried in the place of one that cannot be read
HostBatch = dict[str, np.ndarray]


class Records(NamedTuple):
    """A split, or a part of one, in its files."""

    name: str  # for messages
    source: Any  # a Source: source[i] -> {'image': encoded bytes, 'label': int, ...}
    indices: range  # of its examples in the source
    classes: int
    side: int
    bad_examples: str = 'error'  # or 'skip': another example takes the place of one that cannot be read

    @property
    def reads(self) -> str:
        """The entry of a batch that models are called on."""
        return 'image'

    @property
    def dtype(self) -> Any:
        """Of an example's image, as stored."""
        return np.uint8

    @property
    def size(self) -> int:
        """How many examples there are."""
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[height, width, channels] of an example's image."""
        return self.side, self.side, 3

    def part(self, start: int | None, stop: int | None) -> 'Records':
        """The examples [start:stop]."""
        return self._replace(indices=self.indices[start:stop])

    def read(self, place: int, key: tuple[int, int] | None) -> dict[str, Any]:
        """One example: image uint8 [side, side, 3] and label int32 []; see `batches`.

        Raises:
          ValueError: it cannot be read, or its image cannot be decoded, or its label is no class.
        """
        if place < 0:
            return {'image': np.zeros(self.shape, np.uint8), 'label': np.int32(-1)}
        index = self.indices[place]
        try:
            return self._read(index, key)
        except BadExampleError as error:
            if self.bad_examples == 'error':
                raise
            _warn_once(f'{error}; another example takes its place')
        others = np.random.default_rng(index).integers(self.size, size=_TRIES)  # the same in every epoch and process
        for other in others:
            with contextlib.suppress(BadExampleError):
                return self._read(self.indices[other], key)
        raise ValueError(f'{self.name}: {_TRIES} examples in a row cannot be read; is its folder still there?')

    def _read(self, index: int, key: tuple[int, int] | None) -> dict[str, Any]:
        example = self.source[index]
        label = int(example['label'])
        try:
            require(0 <= label < self.classes, 'its label', f'from 0 to {self.classes - 1}', label)
            image = decode(example['image'])
        except ValueError as error:
            raise self.source.bad(index, f'{error} ({example.get("file_name")})') from error
        if key is None:
            return {'image': centre_crop(image, self.side), 'label': np.int32(label)}
        rng = np.random.default_rng((*key, index))
        return {'image': random_crop(image, self.side, rng), 'label': np.int32(label)}

    @contextlib.contextmanager
    def batches(self, order: np.ndarray, key: tuple[int, int] | None = None) -> Iterator[Iterator[HostBatch]]:
        """Reads batches ahead in threads, for the time of a `with` block.

        Args:
          order: int [batches, B], which examples they hold, from 0; -1 stands for a black image of label -1.
          key: (seed, epoch), which settles each example's random crop; None: centre crops.

        Yields:
          an iterator over {'image': uint8 [B, side, side, 3], 'label': int32 [B]}. It raises as `read` does.
        """
        import grain

        threads = max(16, os.cpu_count() or 1)  # 16: reading waits, even where there are few cores
        examples = grain.MapDataset.source(order.reshape(-1)).map(lambda place: self.read(int(place), key))
        ahead = examples.to_iter_dataset(grain.ReadOptions(num_threads=threads)).batch(order.shape[1])
        iterator = iter(grain.experimental.ThreadPrefetchIterDataset(ahead, prefetch_buffer_size=_AHEAD))
        try:
            yield iterator
        finally:
            iterator.close()


@functools.cache
def _warn_once(message: str) -> None:
    """Not in every epoch again."""
    _LOG.warning('%s', message)


def open_records(
    name: str, splits: tuple[str, ...], data_dir: str | None, side: int = _SIDE, bad_examples: str = 'error'
) -> tuple[list[Records], int, str]:
    """Opens splits of a TFDS set.

    Args:
      name: of the set.
      splits: their names in TFDS.
      data_dir: folder of prepared sets; None: $RLRA_DATA_DIR, else TFDS's own default.
      side: of the images that `read` returns.
      bad_examples: what to do about those that cannot be read: 'error', or 'skip' to take another, with a warning.

    Returns:
      the splits; the number of classes; and 'files:' with a SHA-256 over what `fingerprint` says.

    Raises:
      FileNotFoundError: the set is not prepared in that folder; says how to prepare it.
      ModuleNotFoundError: a package that reads or decodes it is missing; says how to install it.
      ValueError: its description is damaged; says which file.
    """
    require_module('grain', 'grain', f'{name} is read by grain')
    require_module('cv2', 'opencv-python-headless', f'{name} is decoded by OpenCV')
    builder = open_builder(name, splits, data_dir)
    import tensorflow_datasets as tfds

    classes = builder.info.features['label'].num_classes
    encoded = {'image': tfds.decode.SkipDecoding()}
    sources = [open_source(builder, name, split, decoders=encoded) for split in splits]
    opened = [Records(s.name, s, range(len(s)), classes, side, bad_examples) for s in sources]
    return opened, classes, f'files:{fingerprint(builder)}'
