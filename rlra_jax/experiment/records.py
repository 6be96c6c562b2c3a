"""TFDS sets too large for memory: grain reads, decodes and crops the examples of each batch as it is needed."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rlra_jax.experiment.crops import centre_crop, decode, random_crop
from rlra_jax.experiment.tfds_arrays import fingerprint, open_builder, require_module
from rlra_jax.validate import require

_SIDE = 224  # of the images that models see
_AHEAD = 2  # whole batches kept ready
HostBatch = dict[str, np.ndarray]


class Records(NamedTuple):
    """A split, or a part of one, in its files."""

    name: str  # for messages
    source: Any  # source[i] -> {'image': encoded bytes, 'label': int, ...}
    indices: range  # of its examples in the source
    classes: int
    side: int

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
          ValueError: its image cannot be decoded, or its label is no class.
        """
        if place < 0:
            return {'image': np.zeros(self.shape, np.uint8), 'label': np.int32(-1)}
        index = self.indices[place]
        example = self.source[index]
        label = int(example['label'])
        try:
            require(0 <= label < self.classes, 'its label', f'from 0 to {self.classes - 1}', label)
            image = decode(example['image'])
        except ValueError as error:
            raise ValueError(f'example {index} of {self.name} ({example.get("file_name")}): {error}') from error
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


def open_records(
    name: str, splits: tuple[str, ...], data_dir: str | None, side: int = _SIDE
) -> tuple[list[Records], int, str]:
    """Opens splits of a TFDS set.

    Args:
      name: of the set.
      splits: their names in TFDS.
      data_dir: folder of prepared sets; None: $RLRA_DATA_DIR, else TFDS's own default.
      side: of the images that `read` returns.

    Returns:
      the splits; the number of classes; and 'files:' with a SHA-256 over what `fingerprint` says.

    Raises:
      FileNotFoundError: the set is not prepared in that folder; says how to prepare it.
      ModuleNotFoundError: a package that reads or decodes it is missing; says how to install it.
    """
    require_module('grain', 'grain', f'{name} is read by grain')
    require_module('cv2', 'opencv-python-headless', f'{name} is decoded by OpenCV')
    builder = open_builder(name, splits, data_dir)
    import tensorflow_datasets as tfds

    classes = builder.info.features['label'].num_classes
    encoded = {'image': tfds.decode.SkipDecoding()}
    sources = {split: builder.as_data_source(split, decoders=encoded) for split in splits}
    opened = [Records(f'{name}/{key}', source, range(len(source)), classes, side) for key, source in sources.items()]
    return opened, classes, f'files:{fingerprint(builder)}'
