"""Models of images with an answer that is no class."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from architectures.pieces import Conv, cut, relu


class VAE(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014): logits of pixels, and the latent distribution."""

    @nn.compact
    def __call__(self, x):
        z = relu(nn.Dense(12)(x))
        mean, spread = cut(nn.Dense(4)(z)), cut(nn.Dense(4)(z))
        latent = mean + jnp.exp(spread / 2) * jax.random.normal(self.make_rng('latent'), mean.shape)
        return {'pixels': nn.Dense(x.shape[-1])(relu(nn.Dense(12)(latent))), 'mean': mean, 'spread': spread}


class UNet(nn.Module):
    """Ronneberger et al. 2015: down to half the size and up again, beside what was there; a class for each pixel."""

    @nn.compact
    def __call__(self, x):
        high = relu(nn.Conv(4, (3, 3))(x))
        low = relu(nn.Conv(6, (3, 3))(nn.max_pool(high, (2, 2), (2, 2))))
        z = relu(nn.ConvTranspose(4, (2, 2), strides=(2, 2))(low))
        return nn.Conv(4, (1, 1))(relu(Conv(4, (3, 3))(jnp.concatenate([high, z], axis=-1))))
