"""Losses, errors and targets, of whatever size and type: as NumPy has them in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import array, batches, floating, seeds

import rlra_jax
from rlra_jax.experiment.epoch import total_score
from rlra_jax.loss import loss_and_error, softmax_cross_entropy
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.targets import error_neurons, target

classes = st.integers(1, 7)
scales = st.sampled_from([0.0, 1e-3, 1.0, 30.0, 5e3])


@st.composite
def guesses(draw):
    """(logits [B, classes], labels [B])."""
    batch, count, seed = draw(batches), draw(classes), draw(seeds)
    logits = array(seed, (batch, count), draw(floating), draw(scales) if count > 1 else 1.0)
    return jnp.asarray(logits), np.random.default_rng(seed).integers(0, count, batch)


def log_probabilities(logits):
    wide = np.asarray(logits, np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


@given(guesses())
def test_the_loss_is_the_mean_cross_entropy_and_finite(guesses):
    logits, label = guesses
    logits = logits.astype(jnp.float32)
    loss = jax.jit(softmax_cross_entropy)(logits, {'label': jnp.asarray(label)}).mean()
    expected = -log_probabilities(logits)[np.arange(len(label)), label]
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-4, atol=1e-5)


@given(guesses(), st.sampled_from([-1000, -1, 0, 1000]), st.sampled_from(['int8', 'int16', 'int32', 'uint8']))
def test_under_jit_the_loss_is_not_finite_exactly_where_a_label_is_no_class(guesses, off, dtype):
    logits, label = guesses
    count = logits.shape[1]
    label = np.append(label[1:], np.clip(off if off <= 0 else count, np.iinfo(dtype).min, np.iinfo(dtype).max))
    batch = {'label': jnp.asarray(label.astype(dtype))}
    loss = jax.jit(softmax_cross_entropy)(logits.astype(jnp.float32), batch).mean()
    assert np.isfinite(loss) == (0 <= label[-1] < count)


@given(guesses(), seeds)
def test_sums_of_scores_add_up_over_batches_and_leave_fillings_out(guesses, seed):
    logits, label = guesses
    filled = np.where(np.random.default_rng(seed).random(len(label)) < 0.3, -1, label)
    total = jax.jit(total_score)
    found = total(logits, filled)
    parts = [total(np.asarray(logits)[i : i + 1], filled[i : i + 1]) for i in range(len(label))]
    for whole, *single in zip(found, *parts, strict=True):
        np.testing.assert_allclose(whole, np.sum(single), rtol=1e-5, atol=1e-5)
    counts = filled >= 0
    expected = -log_probabilities(logits)[np.arange(len(label)), label][counts].sum()
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4, atol=1e-4)
    assert 0 <= found.top5_error <= found.error <= counts.sum()


@given(guesses())
def test_the_error_of_the_output_is_the_gradient_of_the_loss(guesses):
    logits, label = guesses
    _, e = jax.jit(lambda *given: loss_and_error(softmax_cross_entropy, *given))(logits, {'label': jnp.asarray(label)})
    assert e.dtype == jnp.float32
    expected = np.exp(log_probabilities(logits)) - np.eye(logits.shape[1])[label]
    np.testing.assert_allclose(e, expected, atol=1e-5)
    np.testing.assert_allclose(e.sum(axis=1), 0, atol=1e-5)


@given(batches, st.lists(st.integers(1, 4), min_size=1, max_size=3), seeds, st.floats(0.0, 1.0))
def test_errors_mix_in_their_signs(batch, shape, seed, alpha):
    z, y = (array(seed + i, (batch, *shape)) for i in (0, 1))
    missed = np.asarray(z, np.float64) - y
    expected = alpha * missed / 0.25 + (1 - alpha) * np.sign(missed)
    found = jax.jit(lambda z, y: error_neurons(z, y, alpha, Options(beta=0.25, normalise=True)))(z, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(batches, st.integers(1, 5), seeds, st.floats(2**-10, 1.0), st.sampled_from(['tanh', 'relu', 'elu', 'sign']))
def test_targets_are_within_a_units_reach(batch, size, seed, beta, name):
    phi = rlra_jax.nn.ACTIVATIONS[name]
    h, d = (array(seed + i, (batch, size), scale=10.0) for i in (0, 1))
    y, z, moved = jax.jit(lambda h, d: (target(phi, h, Options(beta=beta), d), phi(h), phi(h - beta * d)))(h, d)
    np.testing.assert_allclose(y, moved, rtol=1e-6)
    assert np.all((np.asarray(y) - np.asarray(z)) * np.sign(d) < 1e-6)  # all four rise: none moves the error's own way


@given(batches, st.lists(st.integers(1, 4), min_size=1, max_size=3), seeds, st.sampled_from([1.0, 1.5, 2.0, 3.0]))
def test_the_discrepancy_adds_up_over_regions(batch, sizes, seed, q):
    z, y = ({f'r{i}': array(seed + i + 10 * j, (batch, n, 2)) for i, n in enumerate(sizes)} for j in (0, 1))
    kappa = {name: 0.5 + i for i, name in enumerate(z)}
    missed = {name: z[name] - y[name] for name in z}
    found = jax.jit(lambda missed: rlra_jax.total_discrepancy(missed, kappa, q=q))(missed)
    parts = [
        kappa[n] * np.linalg.norm(np.reshape(np.asarray(z[n] - y[n], np.float64), (batch, -1)), axis=1) ** q for n in z
    ]
    np.testing.assert_allclose(found, np.sum(parts, axis=0), rtol=1e-4)
