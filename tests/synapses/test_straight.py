import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlra_jax import Dense, Each, Grid
from rlra_jax.experiment import names
from rlra_jax.rules.noisy_passes import Noise
from rlra_jax.rules.noisy_passes import draw as draw_noise
from rlra_jax.synapses.straight import StraightKind, correlate, transmit

# (kind, shape of a source's example, shape of a target's)
KINDS = {**names.KINDS, 'each': Each(Grid()), 'one': Each(Dense(), one=True)}
CASES = [
    ('each', (4,), (3, 5, 2)),
    ('one', (4,), (2, 5)),
    ('dense', (2, 3, 3), (4,)),
    ('channel', (4,), (4, 6, 2)),
    ('channel', (2, 3, 3), (4, 6, 2)),
    ('grid', (6,), (5, 8, 2)),
    ('grid', (4,), (7, 3)),
    ('grid', (4,), ()),
    ('grid', (), (7, 3)),
    ('token', (5, 3), (5, 4)),
    ('token', (), (4,)),
    ('token', (3,), ()),
    ('token', (2, 3), (2, 16)),
    ('conv_transpose', (2, 3, 3), (4, 6, 2)),
    ('conv_transpose', (3, 4, 2), (3, 4, 3)),
    ('conv_transpose', (5, 4), (5, 3)),
]


def make(kind, source, target, batch=5, seed=0):
    """(E, e, v): a synapse and a signal at each of its ends."""
    keys = jax.random.split(jax.random.key(seed), 3)
    source, target = (batch, *source), (batch, *target)
    E = KINDS[kind].init(keys[0], source, target, 1.0)
    return E, jax.random.normal(keys[1], source), jax.random.normal(keys[2], target)


@pytest.mark.parametrize(('kind', 'source', 'target'), CASES)
def test_types_are_those_of_what_comes(kind, source, target):
    """An update has its synapse's type; what travels that of the signal and the synapse together."""
    narrow = jnp.bfloat16, jnp.float16, jnp.float32
    for of_synapse, of_signals in itertools.product(narrow, narrow):
        E, e, v = jax.tree.map(
            lambda x, dtype: x.astype(dtype), make(kind, source, target), (of_synapse, *[of_signals] * 2)
        )
        both = jnp.result_type(E, e)
        assert jax.eval_shape(lambda E, v: KINDS[kind].see(E, v, e.shape), E, v).dtype == both  # noqa: B023
        assert jax.eval_shape(lambda E, e: transmit(KINDS[kind], E, e, v.shape), E, e).dtype == both  # noqa: B023
        assert jax.eval_shape(lambda E, e, v: correlate(KINDS[kind], E, e, v), E, e, v).dtype == E.dtype


def test_every_kind_has_a_case():
    assert {kind for kind, _, _ in CASES} == {name for name, kind in KINDS.items() if isinstance(kind, StraightKind)}


@pytest.mark.parametrize(('kind', 'source', 'target'), CASES)
def test_transposes_are_transposes(kind, source, target):
    """<T(E, e), v> = <e, T^T v> = <E, B correlate(e, v)> for every kind: transmit is linear in E and in e."""
    E, e, v = make(kind, source, target)

    @jax.jit
    def both_ways(E, e, v):
        sent, back = transmit(KINDS[kind], E, e, v.shape), KINDS[kind].see(E, v, e.shape)
        return (sent * v).sum(), (e * back).sum(), correlate(KINDS[kind], E, e, v)

    inner, other, learnt = both_ways(E, e, v)
    np.testing.assert_allclose(other, inner, rtol=1e-4)
    assert jax.tree.structure(learnt) == jax.tree.structure(E)
    np.testing.assert_allclose((E * learnt).sum() * 5, inner, rtol=1e-4)


@pytest.mark.parametrize(('kind', 'source', 'target'), CASES)
def test_repeats_broadcast_to_the_synapse_without_a_change_of_rank(kind, source, target):
    """Which jax_numpy_rank_promotion='raise' would refuse."""
    repeats = KINDS[kind].usage((5, *source), (5, *target)).repeats
    E, _, _ = make(kind, source, target)
    assert np.ndim(repeats) == 0 or np.broadcast_shapes(repeats.shape, E.shape) == E.shape
    assert np.ndim(repeats) in (0, np.ndim(E))


def test_dense_is_a_matrix():
    E = jnp.arange(12.0).reshape(4, 3)
    e = jnp.eye(4)[:2]
    np.testing.assert_array_equal(transmit(KINDS['dense'], E, e, (2, 3)), E[:2])


@pytest.mark.parametrize(('source', 'target'), [(c[1], c[2]) for c in CASES if c[0] == 'channel'])
def test_channel_averages_the_source_and_broadcasts_over_the_target(source, target):
    E, e, v = make('channel', source, target)
    mean = np.asarray(e).reshape(5, -1, e.shape[-1]).sum(axis=1) / math.prod(e.shape[1:-1])
    E, d = np.asarray(E), np.zeros(v.shape)
    for index in np.ndindex(*v.shape):
        d[index] = sum(mean[index[0], k] * E[k, index[-1]] for k in range(e.shape[-1]))
    np.testing.assert_allclose(transmit(KINDS['channel'], E, e, v.shape), d, atol=1e-5)


def test_channel_comes_from_an_output_of_one_number():
    E, e, v = make('channel', (), (3, 3, 2))
    assert E.shape == (1, 2)
    expected = np.asarray(e)[:, None, None, None] * np.asarray(E)[0] * np.ones((1, 3, 3, 1))
    np.testing.assert_allclose(transmit(KINDS['channel'], E, e, v.shape), expected, rtol=1e-6)


@pytest.mark.parametrize(('source', 'target'), [((3,), ()), ((), (4,))])
def test_one_number_is_one_channel(source, target):
    """Then grid and token are dense."""
    for kind in ('grid', 'token'):
        E, e, v = make(kind, source, target)
        assert E.shape == (math.prod(source), math.prod(target))
        np.testing.assert_allclose(transmit(KINDS[kind], E, e, v.shape).reshape(5, -1), e.reshape(5, -1) @ E, rtol=1e-5)


def test_grid_sends_all_positions_of_a_cell_the_same():
    """5 positions make cells of 2, 1, 1 and 1; 8 make 4 of 2."""
    E, e, v = make('grid', (6,), (5, 8, 2))
    cells = (e @ E).reshape(5, 4, 4, 2)
    d = transmit(KINDS['grid'], E, e, v.shape)
    for i, j in np.ndindex(5, 8):
        np.testing.assert_allclose(d[:, i, j], cells[:, (0, 0, 1, 2, 3)[i], j // 2], atol=1e-5)


def test_channel_is_what_a_network_that_averages_has():
    """Without borders and strides: a convolution of one tap."""
    x, W = jnp.zeros((2, 4, 6, 3)), jax.random.normal(jax.random.key(0), (1, 1, 3, 5))
    h, pull = jax.vjp(lambda x: convolve(x, W, (1, 1), 'VALID').mean(axis=(1, 2)), x)
    e = jax.random.normal(jax.random.key(2), h.shape)
    np.testing.assert_allclose(transmit(KINDS['channel'], W[0, 0].T / 24, e, x.shape), pull(e)[0], atol=1e-5)


def test_token_applies_one_matrix_at_each_position():
    E, e, v = (np.asarray(part) for part in make('token', (2, 3, 4), (2, 3, 5)))
    d = transmit(KINDS['token'], E, jnp.asarray(e), v.shape)
    for place in np.ndindex(5, 2, 3):
        np.testing.assert_allclose(d[place], e[place] @ E, atol=1e-5)


def convolve(x, W, stride, padding):
    return jax.lax.conv_general_dilated(x, W, stride, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


PADDED = ((1, 1), (1, 1))  # both sides alike, whatever the stride
# (target's example, stride, padding, taps of the synapse, those of the forward kernel among them)
FORWARD = [
    ((4, 6, 2), 1, 'SAME', (3, 3), np.s_[:, :]),
    ((5, 8, 2), 2, 'SAME', (3, 4), np.s_[:, 1:]),
    ((5, 8, 2), 2, PADDED, (3, 4), np.s_[:, :3]),
    ((7, 6, 2), 1, 'VALID', (3, 3), np.s_[:, :]),
]


@pytest.mark.parametrize(('wide', 'stride', 'padding', 'taps', 'forward'), FORWARD)
def test_conv_transpose_is_the_transpose_of_the_forward_convolution(wide, stride, padding, taps, forward):
    """With E the kernel's channels swapped, tap by tap: the displacement, and kp, whose dE is dW swapped likewise."""
    x = jax.random.normal(jax.random.key(0), (5, *wide))
    W = jax.random.normal(jax.random.key(1), (3, 3, wide[-1], 4))
    h, pull = jax.vjp(lambda x, W: convolve(x, W, (stride, stride), padding), x, W)
    e = jax.random.normal(jax.random.key(2), h.shape)
    back, dW = pull(e)
    E = np.zeros((*taps, 4, wide[-1]), np.float32)
    E[forward] = jnp.swapaxes(W, 2, 3)
    assert KINDS['conv_transpose'].init(jax.random.key(0), h.shape, x.shape, 1.0).shape == E.shape
    np.testing.assert_allclose(transmit(KINDS['conv_transpose'], jnp.asarray(E), e, x.shape), back, atol=1e-4)
    learnt = correlate(KINDS['conv_transpose'], jnp.asarray(E), e, x)[forward]
    np.testing.assert_allclose(learnt, jnp.swapaxes(dW, 2, 3) / 5, atol=1e-4)


def test_conv_transpose_scatters_each_error_over_its_taps():
    """In loops, stride 2 from 4 to 2 positions: a tap in front of what SAME padding has."""
    E, e, v = (np.asarray(part) for part in make('conv_transpose', (2, 2, 3), (4, 4, 2)))
    d = np.zeros(v.shape)
    for n, i, j, t, u in np.ndindex(5, 2, 2, 4, 4):
        if 0 <= 2 * i + t - 1 < 4 and 0 <= 2 * j + u - 1 < 4:
            d[n, 2 * i + t - 1, 2 * j + u - 1] += e[n, i, j] @ E[t, u]
    np.testing.assert_allclose(transmit(KINDS['conv_transpose'], E, jnp.asarray(e), v.shape), d, atol=1e-5)


@pytest.mark.parametrize(
    ('kernel', 'ratio'), [(4, 2), *(pytest.param(*pair, marks=pytest.mark.full) for pair in ((3, 1), (6, 3), (9, 4)))]
)
def test_conv_transpose_leaves_no_position_out(kernel, ratio):
    E, e, v = make('conv_transpose', (3, 3, 2), (3 * ratio, 3 * ratio, 2))
    assert E.shape == (kernel, kernel, 2, 2)
    assert np.all(np.abs(transmit(KINDS['conv_transpose'], E, e, v.shape)).sum(axis=(0, 3)) > 0)


@pytest.mark.parametrize(
    ('kind', 'source', 'target', 'own_noise'),
    [
        *((*case, False) for case in CASES),
        *((*case, True) for case in CASES if case[0] in ('channel', 'grid')),
    ],
)
def test_usage_predicts_the_curvature_of_a_regression_on_noise(kind, source, target, own_noise):
    """C = A^T A / B of the predictions transmit_back(E, xi), relative to `repeats`, and its square.

    The diagonal of C is 1 in expectation, parameter by parameter, and that of C^2 is 1 + n / B, or less where n is
    small: together they say what a step leaves of an error in E.
    """
    batch, rounds = 6, 50
    E, e, v = make(kind, source, target, batch)
    usage = KINDS[kind].usage(e.shape, v.shape)
    predict = jax.jit(jax.jacobian(lambda E, xi: KINDS[kind].see(E, xi, e.shape)))
    tiles = KINDS[kind].tiles(e.shape, v.shape) if own_noise else v.shape[1:-1]
    A = np.stack(
        [predict(E, draw_noise(Noise(jax.random.key(i), tiles), v.shape, v.dtype, 1.0)) for i in range(rounds)]
    )
    A = A.reshape(rounds, e.size, E.size) / np.sqrt(batch * np.broadcast_to(usage.repeats, E.shape).reshape(-1))
    gram = np.swapaxes(A, 1, 2) @ A
    np.testing.assert_allclose(np.diagonal(gram, axis1=1, axis2=2).mean(axis=0), 1.0, atol=0.4)
    np.testing.assert_allclose(np.diagonal(gram, axis1=1, axis2=2).mean(), 1.0, atol=0.1)
    predicted = 1 + usage.inputs / batch
    square = (gram**2).sum(axis=2).mean()
    assert predicted - 1.1 / batch < square < 1.05 * predicted


WIDE = {
    'each': ((100,), (2, 4, 400)),
    'one': ((400,), (3, 400)),
    'dense': ((400,), (400,)),
    'channel': ((400,), (4, 400)),
    'grid': ((100,), (4, 400)),
    'token': ((3, 400), (3, 400)),
    'conv_transpose': ((4, 4, 100), (8, 8, 400)),
}


@pytest.mark.parametrize('kind', sorted({kind for kind, _, _ in CASES}))
def test_initial_spread(kind):
    source, target = WIDE[kind]
    E = KINDS[kind].init(jax.random.key(0), (1, *source), (1, *target), 0.05)
    np.testing.assert_allclose(E.std(), 0.05, rtol=0.02)
    np.testing.assert_allclose(E.mean(), 0.0, atol=1e-3)


@pytest.mark.parametrize(
    ('kind', 'source', 'target', 'message'),
    [
        ('token', (5, 4, 3), (5, 2, 3), r'a Token .* same positions; got \(5, 4, 3\) and \(5, 2, 3\)'),
        ('token', (5, 3), (5, 4, 3), 'a Token'),
        ('conv_transpose', (5, 8, 8, 3), (5, 4, 4, 3), r'a ConvTranspose .* got \(5, 8, 8, 3\) and'),
        ('conv_transpose', (5, 10), (5, 4, 4, 3), 'a ConvTranspose'),
        ('conv_transpose', (5, 10), (5, 12), 'a ConvTranspose'),
    ],
)
def test_shapes_that_a_kind_cannot_join(kind, source, target, message):
    with pytest.raises(ValueError, match=message):
        KINDS[kind].init(jax.random.key(0), source, target, 0.05)
