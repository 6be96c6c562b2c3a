"""An nnx model."""

from flax import nnx

import rlra_jax


class NNXBlocks(nnx.Module):
    """A transformer block and a gated layer in nnx, for images of 8 x 8 x 2."""

    def __init__(self, rngs: nnx.Rngs):
        width = 6
        self.embed = nnx.Conv(2, width, (4, 4), strides=4, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)])
        self.attention = nnx.MultiHeadAttention(2, width, use_bias=False, decode=False, rngs=rngs)
        self.gate, self.up = nnx.Linear(width, 10, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)
        self.down, self.readout = nnx.Linear(10, width, rngs=rngs), nnx.Linear(width, 4, rngs=rngs)
        self.cuts = nnx.List([rlra_jax.nnx.Site(lambda h: h) for _ in range(4)])
        self.act = rlra_jax.nnx.Site(nnx.silu)

    def __call__(self, x):
        z = self.cuts[0](self.embed(x).reshape(len(x), -1, 6))
        z = self.cuts[1](z + self.attention(self.norms[0](z)))
        h = self.cuts[3](self.norms[1](z))
        z = self.cuts[2](z + self.down(self.act(self.gate(h)) * self.up(h)))
        return self.readout(z.mean(axis=1))
