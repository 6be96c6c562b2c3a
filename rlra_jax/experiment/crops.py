"""From encoded photographs of any size to square crops, on the host with OpenCV: the usual protocol of ImageNet."""

import math
from typing import Any

import numpy as np

_AREA = 0.08, 1.0  # share of the image that a random crop covers
_RATIO = 4 / 3  # of the longer to the shorter side of a random crop, at most
_ATTEMPTS = 10
_CENTRE = 224 / 256  # the centre crop's side over the image's shorter one


def decode(encoded: bytes, channels: int = 3) -> np.ndarray:
    """JPEG or PNG -> uint8 [height, width, channels]: 3, RGB, of grey and CMYK images too; or 1, grey.

    Raises:
      ValueError: it is neither, or damaged.
    """
    import cv2

    try:
        # Turned as it is stored, as TFDS has it; OpenCV would follow what cameras note about up and down.
        colours = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), colours | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f'cannot decode its image of {len(encoded)} bytes: {error}') from error
    if image is None:
        raise ValueError(f'cannot decode its image of {len(encoded)} bytes')
    return image.reshape(*image.shape[:2], channels)


def random_crop(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A part of random size and shape, resized to `[side, side, 3]` (Szegedy et al. 2015): for training."""
    height, width = image.shape[:2]
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*_AREA)
        ratio = _RATIO ** rng.uniform(-1, 1)  # width over height
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return _resize(image[top : top + h, left : left + w], side)
    return centre_crop(image, side)


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The middle square, 224 / 256 as long as the image's shorter side, resized to `[side, side, 3]`: to evaluate."""
    height, width = image.shape[:2]
    length = round(min(height, width) * _CENTRE)
    top, left = (height - length + 1) // 2, (width - length + 1) // 2
    return _resize(image[top : top + length, left : left + length], side)


def _resize(image: np.ndarray, side: int) -> np.ndarray:
    import cv2

    shrinks = min(image.shape[:2]) >= side
    method: Any = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR  # areas: no aliasing
    return cv2.resize(image, (side, side), interpolation=method)
