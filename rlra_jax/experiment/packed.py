"""A TFDS set of small images as one file, NAME.npz, which NumPy and OpenCV read where TFDS is not installed.

It holds the images as TFDS stores them, compressed, so that it is as small as the prepared set.
"""

import itertools
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlra_jax.experiment.crops import decode
from rlra_jax.experiment.source import Source

Arrays = tuple[np.ndarray, np.ndarray]  # uint8 [N, height, width, channels], int32 [N]


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


def unpack(path: pathlib.Path, splits: Sequence[str]) -> tuple[list[Arrays], int]:
    """(images and labels of each split, the number of classes) of a file that `pack` wrote.

    Raises:
      ValueError: it is none, or damaged, or lacks a split.
    """
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as saved:
            channels, found = int(saved['channels']), []
            for split in splits:
                whole, ends = saved[f'{split}_bytes'].tobytes(), [0, *saved[f'{split}_ends']]
                images = [decode(whole[start:end], channels) for start, end in itertools.pairwise(ends)]
                found.append((np.stack(images), saved[f'{split}_label']))
            return found, int(saved['classes'])
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} must be a packed data set with the splits {list(splits)}; {error}') from error
