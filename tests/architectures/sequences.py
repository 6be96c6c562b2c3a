"""Models of sequences and graphs, called on more than an image."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from architectures.pieces import Attention, cut, gelu, relu, silu


class LanguageModel(nn.Module):
    """Vaswani et al. 2017, as a decoder: padding, dropout, sines as positions, a readout that is the embedding."""

    words: int = 9
    width: int = 8

    @nn.compact
    def __call__(self, tokens, train=False):
        def drop(z):
            return nn.Dropout(0.1, deterministic=not train)(z)

        embed = nn.Embed(self.words, self.width, name='embed')
        mask = nn.combine_masks(nn.make_causal_mask(tokens), nn.make_attention_mask(tokens > 0, tokens > 0))
        angle = np.arange(tokens.shape[1])[:, None] / 100 ** (np.arange(self.width // 2) / (self.width // 2))
        z = cut(drop(embed(tokens) + jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)))
        for _ in range(2):
            z = cut(z + drop(Attention()(nn.LayerNorm()(z), mask=mask)))
            z = cut(z + drop(nn.Dense(self.width)(drop(gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(z)))))))
        return embed.attend(nn.LayerNorm()(z))


class RotaryAttention(nn.Module):
    """Causal attention of four heads to two keys and values, each turned by its position (Su et al. 2021)."""

    size: int = 4  # of a head

    @nn.compact
    def __call__(self, z):
        steps = z.shape[1]
        q, k, v = (nn.DenseGeneral((heads, self.size), use_bias=False)(z) for heads in (4, 2, 2))
        q, k = (self.turned(x, steps) for x in (q, k))
        k, v = (jnp.repeat(x, 2, axis=2) for x in (k, v))
        scores = jnp.einsum('bqhc,bkhc->bhqk', q, k) / np.sqrt(self.size)
        scores = jnp.where(np.tri(steps, dtype=bool), scores, -1e9)
        heads = jnp.einsum('bhqk,bkhc->bqhc', nn.softmax(scores), v)
        return nn.DenseGeneral(z.shape[-1], axis=(-2, -1), use_bias=False)(heads)

    def turned(self, x, steps):
        angle = np.arange(steps)[:, None, None] / 100 ** (np.arange(self.size // 2) / (self.size // 2))
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], axis=-1)


class RotaryBlock(nn.Module):
    """Root-mean-square norms, attention and gated layers (Touvron et al. 2023)."""

    @nn.compact
    def __call__(self, z):
        dense = functools.partial(nn.Dense, use_bias=False)
        z = cut(z + RotaryAttention()(nn.RMSNorm()(z)))
        h = cut(nn.RMSNorm()(z))
        return cut(z + dense(z.shape[-1])(silu(dense(12)(h)) * dense(12)(h)))


class RotaryModel(nn.Module):
    """A language model of such blocks, whose activations are computed anew on the way back."""

    words: int = 9

    @nn.compact
    def __call__(self, tokens):
        z = cut(nn.Embed(self.words, 8, embedding_init=nn.initializers.normal(1.0))(tokens))
        for i in range(2):
            z = nn.remat(RotaryBlock)(name=f'block_{i}')(z)
        return nn.Dense(self.words, use_bias=False)(nn.RMSNorm()(z))


class LSTM(nn.Module):
    """A classifier of sentences (Hochreiter and Schmidhuber 1997); 0 ends one, and the state stands still."""

    width: int = 8

    @nn.compact
    def __call__(self, tokens):
        words = nn.Embed(9, self.width, embedding_init=nn.initializers.normal(1.0))
        gates = [(nn.Dense(self.width), nn.Dense(self.width, use_bias=False)) for _ in range(4)]
        c = h = jnp.zeros((len(tokens), self.width))
        for word in tokens.T:
            inward, forget, new, outward = (of_x(words(word)) + of_h(h) for of_x, of_h in gates)
            goes_on = (word > 0)[:, None]
            c = cut(jnp.where(goes_on, nn.sigmoid(forget) * c + nn.sigmoid(inward) * jnp.tanh(new), c))
            h = cut(jnp.where(goes_on, nn.sigmoid(outward) * jnp.tanh(c), h))
        return nn.Dense(4)(h)


class GraphNet(nn.Module):
    """Graph convolutions (Kipf and Welling 2017), nodes of padded graphs; the mean over those there are is read."""

    @nn.compact
    def __call__(self, nodes, joined, there):
        degree = joined.sum(axis=-1, keepdims=True)
        z = relu(nn.Dense(8)(nodes))
        for _ in range(2):
            z = relu(nn.Dense(8)((joined @ z + z) / (degree + 1)))
        return nn.Dense(4)((z * there[..., None]).sum(axis=1) / there.sum(axis=1, keepdims=True))


def sentences(size: int, steps: int = 6) -> jax.Array:
    """Tokens 1 to 8, and 0 from the end of each sentence, of 3 words or more, on: int32 [size, steps]."""
    words = jax.random.randint(jax.random.key(0), (size, steps), 1, 9)
    return jnp.where(jnp.arange(steps) < 3 + jnp.arange(size)[:, None] % (steps - 2), words, 0)
