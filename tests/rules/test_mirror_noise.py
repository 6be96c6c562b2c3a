"""The noise of the rule `mirror`, and the step that is taken on a response to it."""

import dataclasses
import types

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.edges import Carries
from rlra_jax.experiment.names import KINDS
from rlra_jax.rules import Mirror, noisy_passes
from rlra_jax.rules.noisy_passes import Noise
from rlra_jax.synapses.straight import Straight


def averaging_net(phi):
    """Two convolutions and a readout of their average, and an input for it."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(phi, name='map_1')(nn.Conv(6, (3, 3), name='conv_1')(x))
            z = rlra_jax.Site(phi, name='map_2')(nn.Conv(8, (3, 3), name='conv_2')(z))
            return nn.Dense(4, name='readout')(z.mean(axis=(1, 2)))

    return Net(), jax.random.normal(jax.random.key(0), (32, 8, 8, 3))


@pytest.mark.parametrize(
    ('order', 'edges', 'passes'),
    [
        ('z a b c out', ['b->z', 'c->a'], [[], ['b->z'], ['c->a']]),  # what c hears of a passes b
        ('a b y c d out', ['d->a', 'b->a', 'c->y'], [[], ['d->a', 'b->a'], ['c->y']]),  # and d through c
        ('a b c d out', ['c->a', 'd->c'], [[], ['c->a', 'd->c']]),
        ('a b c out', ['b->a', 'c->b', 'out->c'], [['out->c'], ['b->a', 'c->b']]),
        ('a b out', ['out->b path', 'out->b', 'out->a'], [['out->a'], ['out->b path', 'out->b']]),
        ('a b out', ['out->b rest', 'out->b path'], [['out->b rest'], ['out->b path']]),
    ],
)
def test_edges_whose_noise_would_stop_each_other_take_another_pass(order, edges, passes):
    made = {}
    for name in edges:
        ends, _, what = name.partition(' ')
        source, target = ends.split('->')
        made[name] = helpers.edge(source, target, 'path' if what == 'path' else 'dense')
        if what == 'rest':
            made[name] = dataclasses.replace(made[name], carries=Carries.REST)
    names = {edge: name for name, edge in made.items()}
    wiring = types.SimpleNamespace(edges=tuple(made.values()), outputs=('out',), feeds=())
    found = noisy_passes.group(wiring, order.split())
    assert [[names[edge] for edge in own] for own in found] == passes


@pytest.mark.parametrize(('heard', 'share'), [(1, 1 / 3), (2, 2 / 3), (3, 1)])
def test_a_path_takes_the_share_of_a_step_whose_targets_get_noise(heard, share):
    """Its targets may get theirs in several passes, which add up."""
    link = types.SimpleNamespace(
        edges='abc', correlate=lambda E, residual, xi: {'w': 6.0 * E['w']}, curvature=lambda E, step, xi, scale: scale
    )
    step = noisy_passes.learn(link, {'w': jnp.ones(2)}, jnp.ones(3), dict.fromkeys('abc'[:heard]), 2.0)
    np.testing.assert_allclose(step['w'], -3 * share, rtol=1e-6)


@pytest.mark.parametrize('antithetic', [True, False])
def test_pairs_of_passes_leave_out_the_even_part_of_a_response(antithetic):
    xi, nothing = jnp.array([[0.3, -0.2]]), jnp.zeros((1, 2))

    def run(leave, given):
        z = leave('hidden_1', nothing, given['hidden_1'])
        return {'hidden_1': nothing, 'output': z + z**2}

    response = noisy_passes._respond(
        *([helpers.edge('output', 'hidden_1')], run, {'hidden_1': nothing, 'output': nothing}),
        *({'hidden_1': lambda h: h}, {'hidden_1': xi}, {'output'}, antithetic),
    )
    np.testing.assert_allclose(response['output'], xi if antithetic else xi + xi**2, rtol=1e-6)


@pytest.mark.parametrize('kind', [pytest.param('channel', marks=pytest.mark.full), 'grid'])
def test_noise_of_positions_alike_makes_quieter_estimates(kind, monkeypatch):
    """Of the gradient, from coins for each group of positions and from coins for each position: mean and variance."""
    model, x = averaging_net(nn.relu)
    variables = dict(model.init(jax.random.key(1), x))
    edges = [helpers.edge('output', 'map_2', kind, 'fixed'), helpers.edge('output', 'map_1', kind, Mirror(std=0.01))]
    wiring = rlra_jax.wire(apart.sites(model, x), edges)
    feedback = apart.init_feedback(jax.random.key(2), model, wiring, variables, x, std=1e-6)
    batch = {'image': x, 'label': jnp.zeros(len(x), jnp.int32)}

    def estimates():
        update = apart.update_fn(model, wiring)
        grads = jax.vmap(lambda key: update(variables, feedback, batch, key)[0].synapses)
        found = jax.jit(grads)(jax.random.split(jax.random.key(3), 400))[0]['output->map_1']
        return found.mean(axis=0), found.var(axis=0).mean()

    mean, variance = estimates()
    monkeypatch.setattr(noisy_passes, 'Noise', lambda key, tiles: Noise(key, x.shape[1:-1]))
    mean_of_many, variance_of_many = estimates()
    assert helpers.cosine(mean, mean_of_many) > 0.9
    np.testing.assert_allclose(jnp.linalg.norm(mean) / jnp.linalg.norm(mean_of_many), 1, atol=0.1)
    assert variance < 0.6 * variance_of_many, (variance, variance_of_many)


def test_noise_is_spread_over_positions_alike():
    xi = noisy_passes.draw(Noise(jax.random.key(0), (4, 4)), (2, 6, 8, 3), jnp.float32, 0.5)
    assert xi.shape == (2, 6, 8, 3)
    np.testing.assert_allclose(jnp.abs(xi[:, 2]), 0.5 / 2**0.5)  # the cells of an axis are 2, 1, 2 and 1 high, 2 wide
    np.testing.assert_allclose(jnp.abs(xi[:, :2]), 0.5 / 4**0.5)
    np.testing.assert_array_equal(xi[:, 0, ::2], xi[:, 1, 1::2])
    with jax.numpy_rank_promotion('raise'), jax.numpy_dtype_promotion('strict'):
        strict = noisy_passes.draw(Noise(jax.random.key(0), (4, 4)), (2, 6, 8, 3), jnp.float32, 0.5)
    np.testing.assert_array_equal(strict, xi)
    own = noisy_passes.draw(Noise(jax.random.key(0), (6, 8)), (2, 6, 8, 3), jnp.float32, 0.5)
    np.testing.assert_allclose(jnp.abs(own), 0.5)


@pytest.mark.parametrize(
    ('kind', 'width', 'size', 'rate'), [('dense', 40, 10, 1.0), ('dense', 40, 10, 0.5), ('conv_transpose', 3, 2, 1.0)]
)
def test_a_pass_takes_the_predicted_part_of_what_a_synapse_lacks(kind, width, size, rate):
    """r (2 - r) / (1 + n / B) of the expected square, with n noise inputs and B examples."""
    shape = (size, 5, 6, width) if kind == 'conv_transpose' else (size, width)
    lack = KINDS[kind].init(jax.random.key(0), shape, shape, 1.0)
    edge = helpers.edge('j', 'i', kind)
    link = Straight(edge, shape, shape)

    def left(key):
        xi = noisy_passes.draw(Noise(key, shape[1:-1]), shape, jnp.float32, 0.1)
        residual = KINDS[kind].see(lack, xi, shape)  # E is at 0, the Jacobian at `lack`
        scale = noisy_passes.curvature(link.inputs(lack), size, 0.1)
        return jnp.sum((lack + rate * noisy_passes.learn(link, lack, residual, {edge.name: xi}, scale)) ** 2)

    found = jax.vmap(left)(jax.random.split(jax.random.key(1), 400)).mean() / jnp.sum(lack**2)
    inputs = KINDS[kind].usage(shape, shape).inputs
    np.testing.assert_allclose(1 - found, rate * (2 - rate) / (1 + inputs / size), rtol=0.1)


@pytest.mark.parametrize('size', [1, 31, 32, 33, 100_000])
def test_coins_are_fair_and_independent(size):
    """Each, and each with those up to 40 places on, whose bits are of the same word or of the next."""
    coins = np.asarray(noisy_passes._coins(jax.random.key(0), (size,), jnp.float32))
    assert coins.shape == (size,)
    np.testing.assert_array_equal(np.abs(coins), 1)
    if size > 1000:
        together = [(coins[lag:] * coins[: size - lag]).mean() for lag in range(1, 40)]
        assert np.abs([coins.mean(), *together]).max() < 4.5 / size**0.5
