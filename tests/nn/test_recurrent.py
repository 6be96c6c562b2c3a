"""Recurrent networks compute what their equations say."""

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.nn import GRU, Elman

X = jax.random.normal(jax.random.key(0), (3, 5, 2, 2))
ROWS = np.asarray(X.reshape(3, 5, 4))


def made(model):
    """(variables, what the model returns)."""
    variables = model.init(jax.random.key(1), X)
    return variables['params'], model.apply(variables, X)


@pytest.mark.parametrize('every_step', [False, True])
def test_an_elman_network_is_its_equation(every_step):
    params, logits = made(Elman(width=7, classes=4, every_step=every_step))
    state, states = np.zeros((3, 7)), []
    for t in range(5):
        h = ROWS[:, t] @ params['input']['kernel'] + state @ params['recurrent']['kernel'] + params['input']['bias']
        states.append(state := np.tanh(h))
    read = [z @ params['readout']['kernel'] + params['readout']['bias'] for z in states]
    np.testing.assert_allclose(logits, np.stack(read, 1) if every_step else read[-1], atol=1e-5)


def test_a_gated_unit_is_that_of_flax():
    """Whose update gate keeps the old state where it is 1, too."""
    params, logits = made(GRU(width=7, classes=4, every_step=True))
    parts = {'reset': 'r', 'update': 'z', 'candidate': 'n'}
    own = {f'i{short}': params[f'{name}_input'] for name, short in parts.items()}
    own |= {f'h{short}': params[f'{name}_recurrent'] for name, short in parts.items()}
    _, states = nn.RNN(nn.GRUCell(7), return_carry=True).apply({'params': {'cell': own}}, ROWS)
    np.testing.assert_allclose(logits, states @ params['readout']['kernel'] + params['readout']['bias'], atol=1e-5)


@pytest.mark.parametrize('make', [Elman, GRU])
def test_a_pixel_at_each_step(make):
    by_pixel, by_row = make(width=7, classes=4, per_step='pixel', every_step=True), make(7, 4, every_step=True)
    variables = by_pixel.init(jax.random.key(1), X)
    pixels = by_pixel.apply(variables, X)
    assert pixels.shape == (3, 5 * 2, 4)
    np.testing.assert_allclose(pixels, by_row.apply(variables, X.reshape(3, 10, 2)), atol=1e-6)


@pytest.mark.parametrize('make', [Elman, GRU])
def test_one_traced_step_learns_as_many(make):
    """From the same start, the same losses and updates; its program is as long for 784 steps as for 5."""
    batch = {'image': X, 'label': jnp.arange(3)}
    found = []
    for scanned in (False, True):
        net = rlra_jax.regions(make(width=7, classes=4, scanned=scanned), batch)
        wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.KolenPollack(equal=True))
        learner = rlra_jax.update_fn(net, wiring, rlra_jax.Options(normalise=True))
        weights, state = jax.jit(learner.init)(jax.random.key(1))
        grads, _, aux = jax.jit(learner.update)(weights, state, batch, jax.random.key(2))
        found.append((weights['params'], grads['params'], aux.loss))
    helpers.assert_updates_agree(*found)
    long = {'image': jnp.zeros((2, 28, 28, 1)), 'label': jnp.zeros(2, jnp.int32)}
    net = rlra_jax.regions(make(width=7, per_step='pixel', scanned=True), long)
    assert len(net) == (2 if make is Elman else 3)
    assert {region.shape[1] for region in net[:-1]} == {784}


@pytest.mark.parametrize('make', [Elman, GRU])
def test_computes_in_the_type_that_it_is_told(make):
    batch = {'image': X, 'label': jnp.zeros(3, jnp.int32)}
    *hidden, output = rlra_jax.regions(make(width=7, classes=4, dtype=jnp.bfloat16), batch)
    assert {region.dtype for region in hidden} == {jnp.dtype(jnp.bfloat16)}
    assert output.dtype == jnp.float32


@pytest.mark.parametrize(
    ('model', 'shape', 'message'),
    [
        (Elman(width=0), (3, 5, 4), 'width must be a whole number of at least 1; got 0'),
        (GRU(classes=2.0), (3, 5, 4), 'classes must be a whole number of at least 1; got 2.0'),
        (Elman(every_step='no'), (3, 5, 4), "every_step must be True or False; got 'no'"),
        (GRU(), (3, 5), r'a recurrent network reads a row of \[B, T, ...\] at each step; got \(3, 5\)'),
        (GRU(per_step='pixel'), (3, 8, 8), r'a pixel of images \[B, height, width, C\] at each step; got \(3, 8, 8\)'),
        (GRU(per_step='column'), (3, 5, 4), "unknown part of an image per step 'column'; known: pixel, row"),
        (Elman(scanned=1), (3, 5, 4), 'scanned must be True or False; got 1'),
    ],
)
def test_fields_out_of_their_range(model, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones(shape))
