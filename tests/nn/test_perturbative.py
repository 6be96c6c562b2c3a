"""The pseudo-convolution and its update against the paper's formulas in NumPy loops."""

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from apart import cut_vjp

import rlra_jax
from rlra_jax.nn import PerturbativeConv
from rlra_jax.nn.perturbative import noise_maps


class Net(nn.Module):
    stride: int = 1
    masks: int = 5
    features: int = 3

    @nn.compact
    def __call__(self, x):
        h = PerturbativeConv(self.features, self.stride, masks=self.masks, std=0.7, name='pconv')(x)
        z = rlra_jax.Site(jnp.tanh, name='act')(h)
        return nn.Dense(2, name='readout')(z.mean(axis=(1, 2)))


def responses(x, noise, stride, count):
    """phi_r(z^m + n^m), averaged over windows, in loops over maps."""
    maps = []
    for m in range(count):
        r = np.maximum(x[..., m % x.shape[-1]] + noise[..., m % noise.shape[-1]], 0)
        maps.append(r.reshape(len(x), 4 // stride, stride, 4 // stride, stride).mean(axis=(2, 4)))
    return maps


@pytest.mark.parametrize(('stride', 'masks', 'channels'), [(1, 5, 5), (2, 5, 2), (1, 3, 5)])
def test_forward_and_local_update_match_the_papers_loops(stride, masks, channels):
    with jax.enable_x64(True):
        model = Net(stride, masks)
        x = jax.random.normal(jax.random.key(0), (2, 4, 4, channels), jnp.float64)
        variables = model.init(jax.random.key(1), x)
        w = np.asarray(variables['params']['pconv']['combine']['kernel'], np.float64)
        count = max(masks, channels)
        assert w.shape == (count, 3)
        assert set(variables) == {'params'}
        assert set(variables['params']['pconv']) == {'combine'}
        maps = responses(np.asarray(x), np.asarray(noise_maps(0, ('pconv',), (4, 4, masks), 0.7)), stride, count)
        seen, pull = cut_vjp(model, variables, x)
        for c in range(3):
            z = sum(w[m, c] * maps[m] for m in range(count))
            np.testing.assert_allclose(seen.h['act'][..., c], z, rtol=1e-5, atol=1e-6)
        e = jax.random.normal(jax.random.key(2), seen.h['act'].shape, jnp.float64)
        update = pull({'act': e, 'output': jnp.zeros_like(seen.h['output'])})['pconv']['combine']['kernel']
        for m in range(count):
            for c in range(3):
                expected = sum((np.asarray(e)[b, ..., c] * maps[m][b]).sum() for b in range(len(x)))
                np.testing.assert_allclose(update[m, c], expected, rtol=1e-5, atol=1e-6)


def test_noise_is_gaussian_fixed_and_each_layers_own():
    noise = noise_maps(3, ('a', 'b'), (32, 32, 64), 0.5)
    np.testing.assert_allclose([noise.mean(), noise.std()], [0.0, 0.5], atol=0.005)
    np.testing.assert_array_equal(noise, jax.jit(lambda: noise_maps(3, ('a', 'b'), (32, 32, 64), 0.5))())
    for other in (noise_maps(4, ('a', 'b'), (32, 32, 64), 0.5), noise_maps(3, ('a', 'c'), (32, 32, 64), 0.5)):
        assert abs(helpers.cosine(noise, other)) < 0.02


def test_maps_are_drawn_at_trace_time_and_no_argument_of_the_program():
    x = jnp.ones((2, 4, 4, 2))
    model = Net()
    variables = model.init(jax.random.key(0), x)
    jaxpr = str(jax.make_jaxpr(lambda v: model.apply(v, x))(variables))
    assert 'random' not in jaxpr
    assert 'threefry' not in jaxpr


@pytest.mark.parametrize(
    ('options', 'message'), [({'masks': 0}, 'masks must be'), ({'features': 0}, 'features must be')]
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Net(**options).init(jax.random.key(0), jnp.ones((2, 4, 4, 2)))
