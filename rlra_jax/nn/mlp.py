"""Fully connected networks: plain, and Algorithm 1's residual one."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rlra_jax.model.site import Site
from rlra_jax.types import Array, Phi
from rlra_jax.validate import require_count, require_counts, require_number


class MLP(nn.Module):
    """z_l = phi(W_l z_{l-1} + b_l), Eq. 1; takes `[B, ...]`, flattens, returns logits `[B, classes]`.

    Attributes:
      widths: units of each hidden layer; region l is named 'hidden_l', from 1.
      classes: size of the output.
      phi: activation function of the hidden layers.
      init_std: standard deviation of the Gaussian weights; biases start at 0.
      param_dtype: of the parameters; activity takes the wider of it and the input's.

    Raises:
      ValueError: a size below 1, or a standard deviation not above 0.
    """

    widths: Sequence[int] = (256,) * 5
    classes: int = 10
    phi: Phi = jnp.tanh
    init_std: float = 0.05
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        require_counts('widths', self.widths)
        require_count('classes', self.classes)
        z = x.reshape(x.shape[0], -1)
        for depth, width in enumerate(self.widths, start=1):
            z = Site(self.phi, name=f'hidden_{depth}')(_dense(self, width, f'dense_{depth}')(z))
        return _dense(self, self.classes, 'readout')(z)


class ResidualMLP(nn.Module):
    """Algorithm 1's network: where gap divides l, h_l = W_l z_{l-1} + z_{l-gap}.

    The sum needs equal widths, so the input z_0 is never added: the first sum is at l = 2 gap.

    Attributes:
      width: units of every hidden layer.
      depth: number of hidden layers.
      classes: size of the output.
      gap: g, at least 1.
      phi: activation function of the hidden layers.
      init_std: standard deviation of the Gaussian weights; biases start at 0.
      param_dtype: of the parameters.

    Raises:
      ValueError: a size below 1, or a standard deviation not above 0.
    """

    width: int = 256
    depth: int = 8
    classes: int = 10
    gap: int = 2
    phi: Phi = jnp.tanh
    init_std: float = 0.05
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for name in ('gap', 'depth', 'classes'):
            require_count(name, getattr(self, name))
        z = [x.reshape(x.shape[0], -1)]
        for depth in range(1, self.depth + 1):
            h = _dense(self, self.width, f'dense_{depth}')(z[-1])
            if depth % self.gap == 0 and depth > self.gap:
                h = h + z[depth - self.gap]
            z.append(Site(self.phi, name=f'hidden_{depth}')(h))
        return _dense(self, self.classes, 'readout')(z[-1])


def _dense(model: MLP | ResidualMLP, width: int, name: str) -> nn.Dense:
    require_count('width', width)
    require_number('init_std', model.init_std, 0, above=True)
    init = nn.initializers.normal(model.init_std)
    return nn.Dense(width, kernel_init=init, param_dtype=model.param_dtype, name=name)
