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


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (rlra_jax.nn.MLP(widths=8), 'widths must be a sequence of whole numbers; got 8'),
        (rlra_jax.nn.MLP(widths='88'), "widths must be a sequence of whole numbers; got '88'"),
        (rlra_jax.nn.MLP(widths=(8, 0)), 'each of widths must be a whole number of at least 1; got 0'),
        (rlra_jax.nn.MLP(classes=0), 'classes must be a whole number of at least 1; got 0'),
        (rlra_jax.nn.MLP(phi='tanh'), r"phi must be a function, such as jnp.tanh or ACTIVATIONS\['tanh'\]; got 'tanh'"),
        (rlra_jax.nn.MLP(phi=None), 'phi must be a function, .* got None'),
        (rlra_jax.nn.MLP(init_std=True), 'init_std must be a number above 0; got True'),
        (rlra_jax.nn.ResidualMLP(depth=2.0), 'depth must be a whole number of at least 1; got 2.0'),
        (rlra_jax.nn.CNN(widths=8), 'widths must be a sequence of whole numbers; got 8'),
        (rlra_jax.nn.ResNet18(blocks=2), 'blocks must be a sequence of whole numbers; got 2'),
        (rlra_jax.nn.ResNet18(classes='10'), "classes must be a whole number of at least 1; got '10'"),
    ],
)
def test_fields_out_of_their_range(model, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, 8, 8, 1)))
