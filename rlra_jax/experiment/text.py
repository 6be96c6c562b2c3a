"""A text as windows of characters: those to train on start anywhere, those to evaluate follow each other."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.types import Array, Batch
from rlra_jax.validate import require, require_count

EPOCH_METRICS = ('train_bits', 'val_bits', 'val_perplexity')  # further ones of an epoch, from `measures_of`


@functools.partial(jax.tree_util.register_dataclass, data_fields=['tokens'], meta_fields=['context'])
@dataclasses.dataclass(frozen=True)
class Text:
    """A split of a text. A pytree, on the host or on the device.

    Attributes:
      tokens: int32 [N], a character's place in the alphabet.
      context: how many characters a model sees at once.
    """

    tokens: Any
    context: int
    reads = 'tokens'  # the entry of a batch that models are called on
    dtype = np.int32

    @property
    def size(self) -> int:
        """How many examples an epoch has: windows, as if they followed each other."""
        return (len(self.tokens) - 1) // self.context

    @property
    def shape(self) -> tuple[int]:
        """[context] of an example's tokens."""
        return (self.context,)

    @property
    def each(self) -> int:
        """How many labels an example has."""
        return self.context

    @property
    def answers(self) -> int:
        """How many characters are predicted, where windows follow each other: all but the first."""
        return len(self.tokens) - 1

    @property
    def places(self) -> Array:
        """Where windows start that follow each other; the last one may reach beyond the end."""
        return jnp.arange(0, self.answers, self.context)

    def part(self, start: int | None, stop: int | None) -> 'Text':
        """The windows [start:stop] of those that follow each other."""
        first, last, _ = slice(start, stop).indices(self.size)
        return dataclasses.replace(self, tokens=self.tokens[first * self.context : last * self.context + 1])

    def order(self, key: Array, steps: int, batch_size: int) -> Array:
        """Where the windows of an epoch's steps start, anywhere in the text: int32 [steps, batch_size]."""
        return jax.random.randint(key, (steps, batch_size), 0, len(self.tokens) - self.context)

    def at(self, index: Any) -> Batch:
        """The windows that start at these characters [B].

        Returns:
          {'tokens': int32 [B, context], 'label': int32 [B, context], the characters that follow each; -1 beyond the
          end of the text}.
        """
        at = index[:, None] + jnp.arange(self.context + 1)
        there = jnp.asarray(self.tokens)[jnp.minimum(at, self.answers)]
        return {'tokens': there[:, :-1], 'label': jnp.where(at[:, 1:] <= self.answers, there[:, 1:], -1)}


def alphabet_of(text: str) -> str:
    """The characters of a text, each once, in order."""
    return ''.join(sorted(set(text)))


def encode(text: str, alphabet: str, name: str = 'the text') -> np.ndarray:
    """Characters as tokens: int32 [N].

    Raises:
      ValueError: one is not in the alphabet; says which.
    """
    unknown = sorted(set(text) - set(alphabet))
    require(not unknown, name, f'of the {len(alphabet)} characters {alphabet!r}', ''.join(unknown))
    place = {character: i for i, character in enumerate(alphabet)}
    return np.fromiter(map(place.__getitem__, text), np.int32, len(text))


def check_text(name: str, text: Text, classes: int) -> None:
    """Raises ValueError unless a split holds tokens of an alphabet, and one to predict at least."""
    tokens = np.asarray(text.tokens)
    require_count(f'{name}: context', text.context)
    if tokens.ndim != 1 or tokens.dtype != np.int32:
        raise ValueError(f'{name}: tokens must be int32 [N]; got {tokens.dtype} {tokens.shape}')
    require(len(tokens) > 1, f'{name}: a text', 'of 2 characters or more', len(tokens))
    low, high = int(tokens.min()), int(tokens.max())
    require(0 <= low <= high < classes, f'{name}: tokens', f'from 0 to {classes - 1}', f'{low} to {high}')


def sha256_of(*splits: Text) -> str:
    """SHA-256 over the tokens of several splits."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.ascontiguousarray(split.tokens, '<i4').tobytes())
    return digest.hexdigest()


def measures(loss: Any) -> dict[str, Any]:
    """Bits per character and perplexity of a loss in nats."""
    return {'bits': np.asarray(loss) / math.log(2), 'perplexity': np.exp(loss)}


def measures_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """{'PART_bits': ..., 'PART_perplexity': ...} of {'PART_loss': in nats}."""
    parts = {name.removesuffix('_loss'): loss for name, loss in metrics.items() if name.endswith('_loss')}
    return {f'{part}_{name}': value for part, loss in parts.items() for name, value in measures(loss).items()}
