import helpers
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import rlra_jax
from rlra_jax.nn import ACTIVATIONS


@pytest.mark.parametrize('phi', ACTIVATIONS)
@pytest.mark.parametrize('gap', [None, 1, 2, 3])
def test_logits_match_numpy(phi, gap):
    model, variables, batch = helpers.make_mlp(phi, depth=4, gap=gap)
    phis = {**oracle.PHI, 'identity': lambda h: h}
    oracle.PHI, original = phis, oracle.PHI
    try:
        h, _ = oracle.forward(*helpers.layers(variables['params']), np.asarray(batch['image']), phi, gap)
    finally:
        oracle.PHI = original
    np.testing.assert_allclose(model.apply(variables, batch['image']), h[-1], rtol=1e-4, atol=1e-4)


def test_images_are_flattened_and_weights_gaussian():
    model = rlra_jax.nn.MLP(widths=(300,), init_std=0.03)
    variables = model.init(jax.random.key(0), jnp.zeros((2, 10, 10, 3)))
    kernel = variables['params']['dense_1']['kernel']
    assert kernel.shape == (300, 300)
    np.testing.assert_allclose(kernel.std(), 0.03, rtol=0.02)
    assert not np.any(variables['params']['dense_1']['bias'])
