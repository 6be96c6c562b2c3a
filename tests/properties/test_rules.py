"""The rules of the error synapses, of whatever shapes: what they are for each pair of units, averaged over examples."""

import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import array, batches, floating, seeds, units

from rlra_jax.edges import LinkSignals
from rlra_jax.experiment.names import RULES
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.targets import target
from rlra_jax.synapses.straight import Straight

BETA = 0.3
rules = st.sampled_from(sorted(RULES))


@functools.partial(jax.jit, static_argnums=0)
def learn(rule, E, e, d, h):
    """What a rule makes of a dense synapse `[n_j, n_i]`, an error e, a displacement d and a tanh region's h."""
    edge = helpers.edge('a', 'b', 'dense')
    reach = {edge.name: lambda d: target(jnp.tanh, h, Options(beta=BETA), d)}
    signals = LinkSignals(E, e, {edge.name: d}, {edge.name: jnp.tanh(h)}, reach, {})
    return RULES[rule]().learn(Straight(edge, e.shape, h.shape), signals)


def draw(batch, source, hidden, seed, dtype='float32', of_synapse='float32'):
    """(E, e, d, h): what `learn` takes, d being what E makes of e."""
    E, e = array(seed, (source, hidden), of_synapse), array(seed + 1, (batch, source), dtype)
    d = (np.asarray(e, np.float32) @ np.asarray(E, np.float32)).astype(e.dtype)
    return E, e, d, array(seed + 2, (batch, hidden), dtype)


def by_hand(rule, E, e, d, h):
    """In float64, example by example."""
    E, e, d, h = (np.asarray(x, np.float64) for x in (E, e, d, h))
    y = np.tanh(h - BETA * e @ E)
    of_each = {
        'hebbian': lambda n: -np.outer(e[n], d[n]),
        'kp': lambda n: np.outer(e[n], np.tanh(h[n])),
        'dx': lambda n: np.outer(e[n], 2 * BETA * (np.tanh(h[n]) - y[n]) * (1 - y[n] ** 2)),
    }.get(rule, lambda n: np.zeros(E.shape))
    return np.mean([of_each(n) for n in range(len(e))], axis=0)


@given(rules, batches, units, units, seeds)
def test_each_rule_is_its_equation(rule, batch, source, hidden, seed):
    given = draw(batch, source, hidden, seed)
    expected = by_hand(rule, *given)
    np.testing.assert_allclose(learn(rule, *given), expected, atol=1e-4 * (1 + np.abs(expected).max()))


@given(rules, units, units, units, seeds)
def test_an_update_is_a_mean_over_examples_in_whatever_order(rule, batch, source, hidden, seed):
    E, *given = draw(2 * batch, source, hidden, seed)
    whole = learn(rule, E, *given)
    for order in (np.arange(2 * batch)[::-1], np.tile(np.arange(2 * batch), 2)):
        np.testing.assert_allclose(learn(rule, E, *(x[order] for x in given)), whole, rtol=1e-3, atol=1e-4)
    halves = [learn(rule, E, *(x[half] for x in given)) for half in np.split(np.arange(2 * batch), 2)]
    np.testing.assert_allclose(sum(halves) / 2, whole, rtol=1e-3, atol=1e-4)


@given(rules, batches, units, units, seeds, floating, floating)
def test_an_update_has_its_synapses_type(rule, batch, source, hidden, seed, dtype, of_synapse):
    E, *given = draw(batch, source, hidden, seed, dtype, of_synapse)
    found = jax.eval_shape(functools.partial(learn, rule), E, *given)
    assert (found.dtype, found.shape) == (E.dtype, E.shape)
