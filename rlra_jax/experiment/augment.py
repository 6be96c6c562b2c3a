"""Standard augmentation on the device: random crops of padded images, and mirror images, of answers too."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlra_jax.types import Array, Variables
from rlra_jax.validate import require_count

Answer = Callable[[Variables, Array], Array]  # (variables, images [B, height, width, channels]) -> logits
Augment = Callable[[Array, Array], Array]  # (key, images [B, height, width, channels]) -> images of that shape


def make_augment(*, pad: int, flip: bool) -> Augment | None:
    """What a config asks for, or None if that is nothing.

    Args:
      pad: pixels of zeros added to each side before a random crop to the old size; 0: none.
      flip: whether each image is mirrored left to right with probability one half.

    Raises:
      ValueError: pad is no whole number of at least 0.
    """
    require_count('pad', pad, low=0)
    if not pad and not flip:
        return None

    def augment(key: Array, image: Array) -> Array:
        key_crop, key_flip = jax.random.split(key)
        if pad:
            image = crop(image, jax.random.randint(key_crop, (image.shape[0], 2), 0, 2 * pad + 1), pad)
        if flip:
            coin = jax.random.bernoulli(key_flip, 0.5, (image.shape[0], 1, 1, 1))
            image = jnp.where(coin, image[:, :, ::-1], image)
        return image

    return augment


def crop(image: Array, offset: Array, pad: int) -> Array:
    """Crops images `[B, height, width, channels]`, padded by zeros, to their old size at offsets int `[B, 2]`."""
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (at[0], at[1], 0), image.shape[1:]))(padded, offset)


def over_flips(answer: Answer) -> Answer:
    """Answers by the means of the logits of an image and of its mirror image, left to right."""

    def mean(variables: Variables, image: Array) -> Array:
        return (answer(variables, image) + answer(variables, image[:, :, ::-1])) / 2

    return mean
