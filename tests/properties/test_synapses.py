"""Synapses of whatever kind and shape: linear maps with their transposes."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import array, batches, seeds, units

from rlra_jax.experiment.names import KINDS
from rlra_jax.nn.cells import tile_of
from rlra_jax.synapses.straight import StraightKind, correlate, transmit

STRAIGHT = {name: kind for name, kind in KINDS.items() if isinstance(kind, StraightKind)}

maps = st.one_of(st.tuples(units), st.tuples(units, units), st.tuples(units, units, units))


@st.composite
def ends(draw):
    """(kind, shape of the source, shape of the target), batch included, that the kind joins."""
    kind, batch = draw(st.sampled_from(sorted(STRAIGHT))), draw(batches)
    source, target = draw(maps), draw(maps)
    if kind == 'token':
        target = (*source[:-1], target[-1])
    if kind == 'conv_transpose':
        positions = source[:-1] or (draw(units),)
        source = (*positions, source[-1])
        target = (*(n * draw(st.integers(1, 3)) + draw(st.integers(0, 1)) for n in positions), target[-1])
    return kind, (batch, *source), (batch, *target)


def shape_of(kind, source, target):
    return jax.eval_shape(lambda key: STRAIGHT[kind].init(key, source, target, 1.0), jax.random.key(0)).shape


def inner(a, b):
    return float((np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum())


@given(ends(), seeds)
def test_errors_travel_and_rules_learn_by_the_transposes_of_what_is_seen(ends, seed):
    """<S(E, z), e> = <z, T(E, e)> = B <E, correlate(e, z)>."""
    kind, source, target = ends
    E, e, z = array(seed, shape_of(*ends)), array(seed + 1, source), array(seed + 2, target)

    @jax.jit
    def all_three(E, e, z):
        return (
            STRAIGHT[kind].see(E, z, source),
            transmit(STRAIGHT[kind], E, e, target),
            correlate(STRAIGHT[kind], E, e, z),
        )

    seen, sent, learnt = all_three(E, e, z)
    assert (seen.shape, sent.shape, learnt.shape) == (source, target, E.shape)
    expected, size = inner(seen, e), 1 + np.abs(np.asarray(seen) * e).sum()
    np.testing.assert_allclose([inner(z, sent), source[0] * inner(E, learnt)], expected, atol=1e-5 * size)


@given(ends(), seeds)
def test_what_is_seen_is_linear_at_both_ends_and_example_by_example(ends, seed):
    kind, source, target = ends
    (E, F), (z, v) = ([array(seed + i, shape) for i in (0, 1)] for shape in (shape_of(*ends), target))
    see = jax.jit(STRAIGHT[kind].see, static_argnums=2)
    np.testing.assert_allclose(see(2 * E - F, z, source), 2 * see(E, z, source) - see(F, z, source), atol=1e-3)
    np.testing.assert_allclose(see(E, z - 3 * v, source), see(E, z, source) - 3 * see(E, v, source), atol=1e-3)
    beside = np.concatenate([z[:1], v[1:]])
    np.testing.assert_allclose(see(E, beside, source)[0], see(E, z, source)[0], atol=1e-4)


@given(ends(), seeds)
def test_of_a_tile_only_the_sum_is_seen(ends, seed):
    """Shuffled within its tiles, a signal looks the same."""
    kind, source, target = ends
    tiles = STRAIGHT[kind].tiles(source, target)
    assert len(tiles) == len(target[1:-1])
    assert all(1 <= count <= n for count, n in zip(tiles, target[1:-1], strict=True))
    E, z = array(seed, shape_of(*ends)), array(seed + 1, target)
    moved = z
    for axis, (n, count) in enumerate(zip(target[1:-1], tiles, strict=True), start=1):
        places = np.concatenate([np.flatnonzero(tile_of(n, count) == tile)[::-1] for tile in range(count)])
        moved = np.take(moved, places, axis)
    see = jax.jit(STRAIGHT[kind].see, static_argnums=2)
    np.testing.assert_allclose(see(E, moved, source), see(E, z, source), atol=1e-4)
