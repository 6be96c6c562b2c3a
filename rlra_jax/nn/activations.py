"""The activation functions that configs can name."""

import jax
import jax.numpy as jnp

from rlra_jax.types import Phi
from rlra_jax.validate import Table

ACTIVATIONS: dict[str, Phi] = Table(
    'activation',
    {
        'elu': jax.nn.elu,
        'gelu': jax.nn.gelu,
        'identity': lambda h: h,
        'relu': jax.nn.relu,
        'sigmoid': jax.nn.sigmoid,
        'sign': jnp.sign,
        'tanh': jnp.tanh,
    },
)
