"""Networks of convolutions."""

import flax.linen as nn
import jax.numpy as jnp

from architectures.pieces import Conv, batch_norm, cut, gelu, relu, silu


class PreActivationResNet(nn.Module):
    """He et al. 2016b: normalise, activate, convolve, add."""

    @nn.compact
    def __call__(self, x, train=False):
        z = cut(Conv(4, (3, 3))(x))
        for features, stride in [(4, 1), (6, 2)]:
            a = relu(batch_norm(train)(z))
            h = relu(batch_norm(train)(Conv(features, (3, 3), strides=stride)(a)))
            skip = z if stride == 1 else Conv(features, (1, 1), strides=stride)(a)
            z = cut(skip + Conv(features, (3, 3))(h))
        return nn.Dense(4)(relu(batch_norm(train)(z)).mean(axis=(1, 2)))


class DenseNet(nn.Module):
    """Huang et al. 2017: every layer reads all before it; a transition pools."""

    @nn.compact
    def __call__(self, x, train=False):
        z = [relu(batch_norm(train)(Conv(4, (3, 3))(x)))]
        for _ in range(2):
            z.append(relu(batch_norm(train)(Conv(3, (3, 3))(jnp.concatenate(z, axis=-1)))))
        h = nn.avg_pool(Conv(6, (1, 1))(jnp.concatenate(z, axis=-1)), (2, 2), (2, 2))
        z = [relu(batch_norm(train)(h))]
        z.append(relu(batch_norm(train)(Conv(3, (3, 3))(z[0]))))
        return nn.Dense(4)(jnp.concatenate(z, axis=-1).mean(axis=(1, 2)))


class Inception(nn.Module):
    """Szegedy et al. 2015: branches of unlike kernels and a max-pool side by side, and max-pools in between."""

    @nn.compact
    def __call__(self, x):
        z = relu(nn.Conv(4, (3, 3))(x))
        for _ in range(2):
            z = nn.max_pool(z, (3, 3), strides=(2, 2), padding='SAME')
            one = relu(nn.Conv(3, (1, 1))(z))
            three = relu(nn.Conv(4, (3, 3))(relu(nn.Conv(3, (1, 1))(z))))
            pooled = relu(nn.Conv(3, (1, 1))(nn.max_pool(z, (3, 3), strides=(1, 1), padding='SAME')))
            z = jnp.concatenate([one, three, pooled], axis=-1)
        return nn.Dense(4)(z.mean(axis=(1, 2)))


class ConvNeXt(nn.Module):
    """Liu et al. 2022: depthwise convolutions, inverted bottlenecks and a scale for each layer."""

    width: int = 4

    @nn.compact
    def __call__(self, x):
        z = cut(nn.LayerNorm()(nn.Conv(self.width, (2, 2), strides=2)(x)))
        for i in range(2):
            h = nn.LayerNorm()(nn.Conv(self.width, (3, 3), feature_group_count=self.width)(z))
            scale = self.param(f'scale_{i}', nn.initializers.constant(0.5), (self.width,))
            z = cut(z + scale * nn.Dense(self.width)(gelu(nn.Dense(4 * self.width)(h))))
        return nn.Dense(4)(nn.LayerNorm()(z.mean(axis=(1, 2))))


class SqueezeExcite(nn.Module):
    """Hu et al. 2018: channels weighed by what their means say, in a residual block."""

    @nn.compact
    def __call__(self, x):
        z = relu(nn.Conv(4, (3, 3))(x))
        for _ in range(2):
            h = relu(nn.Conv(4, (3, 3))(z))
            gate = nn.sigmoid(nn.Dense(4)(relu(nn.Dense(3)(h.mean(axis=(1, 2))))))
            z = relu(z + h * gate[:, None, None])
        return nn.Dense(4)(z.mean(axis=(1, 2)))


class EfficientNet(nn.Module):
    """Tan and Le 2019: inverted bottlenecks of depthwise convolutions, their channels weighed."""

    @nn.compact
    def __call__(self, x, train=False):
        z = silu(batch_norm(train)(Conv(4, (3, 3))(x)))
        for features, stride in [(4, 1), (6, 2)]:
            h = silu(batch_norm(train)(Conv(8, (1, 1))(z)))
            h = silu(batch_norm(train)(Conv(8, (3, 3), strides=stride, feature_group_count=8)(h)))
            gate = nn.sigmoid(nn.Dense(8)(silu(nn.Dense(3)(h.mean(axis=(1, 2))))))
            h = batch_norm(train)(Conv(features, (1, 1))(h * gate[:, None, None]))
            z = cut(z + h if h.shape == z.shape else h)
        return nn.Dense(4)(z.mean(axis=(1, 2)))
