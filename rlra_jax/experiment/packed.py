"""A TFDS set of small images as one file, NAME.npz, which NumPy and OpenCV read where TFDS is not installed.

It holds the images as TFDS stores them, compressed, so that it is as small as the prepared set.
"""

import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlra_jax.experiment.crops import decode
from rlra_jax.experiment.source import Source


def pack(path: pathlib.Path, sources: dict[str, Source], *, classes: int, channels: int) -> None:
    """Writes splits whose images are not decoded.

    Args:
      path: of the file.
      sources: {split: its examples}.
      classes: their number.
      channels: of the decoded images, 1 or 3.
    """
    saved: dict[str, Any] = {'classes': np.array(classes), 'channels': np.array(channels)}
    for split, source in sources.items():
        examples = [source[index] for index in range(len(source))]
        images = [example['image'] for example in examples]
        saved[f'{split}_bytes'] = np.frombuffer(b''.join(images), np.uint8)
        saved[f'{split}_ends'] = np.cumsum([len(image) for image in images])
        saved[f'{split}_label'] = np.array([example['label'] for example in examples], np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **saved)


def unpack(path: pathlib.Path, splits: Sequence[str]) -> tuple[list[Source], int]:
    """(the examples of each split, the number of classes) of a file that `pack` wrote.

    Raises:
      ValueError: it is none, or damaged, or lacks a split.
    """
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as saved:
            channels = int(saved['channels'])
            found = [
                Source(
                    f'{split} of {path}',
                    _Reader(
                        saved[f'{split}_bytes'].tobytes(), saved[f'{split}_ends'], saved[f'{split}_label'], channels
                    ),
                )
                for split in splits
            ]
            return found, int(saved['classes'])
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} must be a packed data set with the splits {list(splits)}; {error}') from error


class _Reader:
    """One split, as `Source` reads it."""

    def __init__(self, whole: bytes, ends: np.ndarray, labels: np.ndarray, channels: int):
        self._whole, self._ends, self._labels, self._channels = whole, [0, *ends], labels, channels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self._whole[self._ends[index] : self._ends[index + 1]]
        return {'image': decode(image, self._channels), 'label': int(self._labels[index])}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]
