"""Pre-norm transformers without biases: a decoder-only language model and a vision transformer (ViT)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.model.site import Site
from rlra_jax.nn.layers import require_images
from rlra_jax.nn.readouts import read_all
from rlra_jax.types import Array, Phi
from rlra_jax.validate import require, require_count


class Block(nn.Module):
    """a = z + attention(norm(z)), then a + W phi(V norm(a)); `[B, T, width]` -> the same.

    Regions: 'attention_sum', 'act' and 'mlp_sum'; the sums' phi is the identity.

    Attributes: see `Transformer`; causal: whether a position hears only those up to its own.
    """

    heads: int
    hidden: int
    phi: Phi
    cut_mlp: bool
    causal: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, z: Array) -> Array:
        width = z.shape[-1]
        shared = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        norm: Any = functools.partial(nn.LayerNorm, use_bias=False, **shared)
        dense: Any = functools.partial(nn.Dense, use_bias=False, **shared)
        attention = nn.MultiHeadDotProductAttention(self.heads, use_bias=False, name='attention', **shared)
        mask = nn.make_causal_mask(jnp.ones((1, z.shape[1]))) if self.causal else None
        a = _cut(z + attention(norm(name='attention_norm')(z), mask=mask), name='attention_sum')
        h = dense(self.hidden, name='up')(norm(name='mlp_norm')(a))
        hidden = Site(self.phi, name='act')(h) if self.cut_mlp else self.phi(h)
        return _cut(a + dense(width, name='down')(hidden), name='mlp_sum')


class Transformer(nn.Module):
    """A decoder-only language model: integer tokens `[B, T]` -> logits of the next ones `[B, T, classes]`.

    Each position hears those up to its own. A region reaches from Site to Site: embedding and first attention, MLP up
    to its activation, MLP down to the sum, attention of the next block, and so on; the readout is the region 'output'.
    Attention is trained inside its region by its gradient, and so is all of an MLP where it is not cut.

    Attributes:
      reads: the entry of a batch that it is called on.
      classes: how many tokens there are.
      context: the most positions T.
      width: channels of the residual stream.
      depth: blocks, named 'block_1' and so on.
      heads: of each attention; they share the width.
      hidden: units of each MLP; None: 4 times the width.
      phi: their activation function.
      cut_mlp: whether it is a Site. A phi without a derivative needs one: below it nothing would learn otherwise.
      readout: 'last': of the last block, normalised; 'all': also of what leaves every other one.
      dtype: to compute in; None: param_dtype.
      param_dtype: of the parameters, and the least that logits are computed in.

    Raises:
      ValueError: a size below 1, heads that do not divide the width, an unknown readout, or no tokens `[B, T]`.
    """

    reads = 'tokens'
    classes: int = 256
    context: int = 64
    width: int = 128
    depth: int = 4
    heads: int = 4
    hidden: int | None = None
    phi: Phi = jax.nn.gelu
    cut_mlp: bool = True
    readout: str = 'last'
    dtype: Any = None
    param_dtype: Any = jnp.float32

    cells = 1  # it reads position by position

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        require_count('context', self.context)
        expected = f'integer [B, T], T at most {self.context}'
        fits = tokens.ndim == 2 and jnp.issubdtype(tokens.dtype, jnp.integer) and tokens.shape[1] <= self.context
        require(fits, 'tokens', expected, f'{tokens.dtype} {tokens.shape}')
        _check(self)
        embed = nn.Embed(self.classes, self.width, dtype=self.dtype, param_dtype=self.param_dtype, name='embed')
        z, read = _blocks(self, embed(tokens) + _positions(self, self.context)[:, : tokens.shape[1]], causal=True)
        return read_all(self, _readout(self, z), read)


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021): images `[B, H, W, C]` -> logits `[B, classes]`.

    Patches are tokens, which all hear each other; the readout takes the mean of the last ones.

    Attributes:
      classes: size of the output.
      patch: side of a patch, which divides both sides of the image.
      cells: of other blocks it reads the means over so many runs of patches.

    The others are those of `Transformer`, which has a context besides.

    Raises:
      ValueError: as `Transformer`, or a patch that does not divide the images' sides.
    """

    classes: int = 10
    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 4
    hidden: int | None = None
    phi: Phi = jax.nn.gelu
    cut_mlp: bool = True
    readout: str = 'last'
    cells: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        require_images(x)
        require_count('patch', self.patch)
        batch, height, width, channels = x.shape
        fits = height % self.patch == 0 == width % self.patch
        require(fits, 'patch', f'a divisor of the sides {height} and {width} of the images', self.patch)
        _check(self)
        rows, columns = height // self.patch, width // self.patch
        patches = x.reshape(batch, rows, self.patch, columns, self.patch, channels).swapaxes(2, 3)
        patches = patches.reshape(batch, rows * columns, -1)
        embed = nn.Dense(self.width, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype, name='embed')
        z, read = _blocks(self, embed(patches) + _positions(self, rows * columns), causal=False)
        return read_all(self, _readout(self, z.mean(axis=1)), read)


def _cut(h: Array, name: str) -> Array:
    """Cuts the residual stream."""
    return Site(lambda h: h, name=name)(h)


def _check(model: Transformer | ViT) -> None:
    for name in ('classes', 'width', 'depth', 'heads'):
        require_count(name, getattr(model, name))
    if model.hidden is not None:
        require_count('hidden', model.hidden)
    require(model.width % model.heads == 0, 'heads', f'a divisor of the width {model.width}', model.heads)


def _positions(model: Transformer | ViT, count: int) -> Array:
    """What tells positions apart, `[1, count, width]`."""
    init = nn.initializers.normal(0.02)
    positions = model.param('positions', init, (1, count, model.width), model.param_dtype)
    return positions.astype(model.dtype or positions.dtype)


def _blocks(model: Transformer | ViT, z: Array, *, causal: bool) -> tuple[Array, dict[str, Array]]:
    """(what leaves the last block, normalised; {block: what leaves it} of the others)."""
    left: dict[str, Array] = {}
    for index in range(model.depth):
        left[f'block_{index + 1}'] = z = Block(
            heads=model.heads,
            hidden=model.hidden or 4 * model.width,
            phi=model.phi,
            cut_mlp=model.cut_mlp,
            causal=causal,
            dtype=model.dtype,
            param_dtype=model.param_dtype,
            name=f'block_{index + 1}',
        )(z)
    left.popitem()
    return nn.LayerNorm(use_bias=False, dtype=model.dtype, param_dtype=model.param_dtype, name='norm')(z), left


def _readout(model: Transformer | ViT, z: Array) -> Array:
    wide = z.astype(jnp.promote_types(z.dtype, model.param_dtype))
    return nn.Dense(model.classes, use_bias=False, param_dtype=model.param_dtype, name='readout')(wide)
