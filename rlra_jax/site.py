"""`Site`, the mark that makes an activation the end of a region."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from rlra_jax.types import Array, Phi


class Site(nn.Module):
    """A parameter-less module that takes a pre-activation h `[B, ...]` and returns z = phi(h) of the same shape.

    Outside rec-LRA it is just the activation function, so that one model serves every learner.

    Attributes:
      phi: any function of h, one example at a time; it needs no derivative. One that mixes
        units must have a symmetric Jacobian, as softmax has; see `check_phi`.
    """

    phi: Phi = jnp.tanh

    @nn.compact
    def __call__(self, h: Array) -> Array:
        return self.phi(h)

    @staticmethod
    def of(phi: Phi) -> Callable[[Array], Array]:
        """An activation function that makes a new Site at each call: for models with an `act=` field."""

        def site(h: Array) -> Array:
            return Site(phi)(h)

        return site
