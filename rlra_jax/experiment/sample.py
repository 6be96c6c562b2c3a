"""Text from a trained model, character by character."""

import jax
import numpy as np

from rlra_jax.experiment.restore import Trained
from rlra_jax.experiment.text import encode
from rlra_jax.validate import require, require_count, require_number

_COLDEST = 1e-6  # divided by less, logits overflow float32


def sample(
    trained: Trained, prompt: str = '\n', length: int = 500, *, temperature: float = 1.0, seed: int = 0, index: int = 0
) -> str:
    """What a model of a text goes on with after a prompt; the same for the same arguments.

    Args:
      trained: what `restore` returned.
      prompt: characters of the text, one or more; the model sees as many of the last ones as its context takes.
      length: how many characters to add.
      temperature: what logits are divided by before a character is drawn; 0: the most probable one; else at least 1e-6.
      seed: of the draws.
      index: whose best variables: the index-th of the run's seeds, from 0.

    Raises:
      ValueError: the run was on images, the prompt is empty or has characters that the text lacks, or a number is out
        of range.
    """
    alphabet, context = trained.dataset.alphabet, trained.dataset.train.shape[0]
    require(alphabet, 'the data of a run to sample from', 'a text', trained.dataset.name)
    require(prompt, 'prompt', 'of one character or more', prompt)
    require_count('length', length, low=0)
    require_number('temperature', temperature, 0)
    require(not 0 < temperature < _COLDEST, 'temperature', f'0, or at least {_COLDEST:g}', temperature)
    require_count('seed', seed, low=0)
    require(seed < 2**31, 'seed', 'below 2**31', seed)
    tokens = encode(prompt, alphabet, 'prompt').tolist()
    for key in jax.random.split(jax.random.key(seed), length):
        seen = tokens[-context:]
        window = np.zeros((1, context), np.int32)
        window[0, : len(seen)] = seen  # what comes after them is not heard
        logits = trained.predict(window, index)[0, len(seen) - 1]
        tokens.append(int(jax.random.categorical(key, logits / temperature) if temperature else logits.argmax()))
    return ''.join(alphabet[token] for token in tokens)
