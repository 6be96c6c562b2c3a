"""What models of several kinds are made of; sums are cut by Sites of the identity."""

import functools

import flax.linen as nn
import jax

from rlra_jax import Site

cut = Site.of(lambda h: h)
relu = Site.of(nn.relu)
gelu = Site.of(jax.nn.gelu)
silu = Site.of(nn.silu)
Attention = functools.partial(nn.MultiHeadDotProductAttention, 2, use_bias=False)
Conv = functools.partial(nn.Conv, use_bias=False)


def batch_norm(train: bool) -> nn.Module:
    return nn.BatchNorm(use_running_average=not train)
