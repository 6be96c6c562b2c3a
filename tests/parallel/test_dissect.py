import functools

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest

import rlra_jax
from rlra_jax.parallel import make_mesh

KEY = jax.random.key(1)


class Chain(nn.Module):
    names: tuple[str, ...]

    @nn.compact
    def __call__(self, x):
        for name in self.names:
            x = rlra_jax.Site(jnp.tanh, name=name)(nn.Dense(5)(x))
        return nn.Dense(4)(x)


@functools.cache
def updates(names):
    """The parameters' updates in the plain step, streamed and level by level."""
    model, batch = Chain(names), helpers.make_batch()
    variables = model.init(KEY, batch['image'])
    regions = apart.sites(model, batch['image'])
    lowest, first, second, third, fourth, output = (region.name for region in regions)
    hears = ((output, lowest), (third, first), (fourth, second), (output, third), (output, fourth))
    edges = [helpers.edge(source, target, rule='kp') for source, target in hears]
    wiring = rlra_jax.wire(regions, edges)
    feedback = apart.init_feedback(KEY, model, wiring, variables, batch['image'], std=0.5)
    steps = (
        apart.update_fn(model, wiring),
        apart.stream_update_fn(model, wiring),
        apart.level_update_fn(model, wiring, make_mesh(devices=jax.devices()[:1])),
    )
    return [jax.jit(step)(variables, feedback, batch, KEY)[0].params for step in steps]


@pytest.mark.parametrize(
    'names',
    [
        ('input', 'x/input', '~', '->', '#'),
        pytest.param(('', 'a', 'c->a', 'b->c', 'b'), marks=pytest.mark.full),
        pytest.param(('params', 'z', 'key', 'h', '/h'), marks=pytest.mark.full),
    ],
)
def test_the_name_of_a_region_has_no_meaning(names):
    expected, *_ = updates(('a', 'b', 'c', 'd', 'e'))
    for came in updates(names):
        helpers.assert_updates_agree(expected, came)


class Scaled(nn.Module):
    """Regions that compute alike, each with a constant of its own, which no training changes."""

    @nn.compact
    def __call__(self, x):
        for number in (1, 2, 3, 4):
            scale = self.variable('fitted', f'scale_{number}', lambda number=number: jnp.asarray(float(number)))
            x = rlra_jax.Site(jnp.tanh, name=f'hidden_{number}')(nn.Dense(5)(x) * scale.value)
        return nn.Dense(4)(x)


def test_regions_with_constants_of_their_own_do_not_learn_as_one():
    batch = helpers.make_batch()
    net = rlra_jax.regions(Scaled(), batch)
    wiring = rlra_jax.wire_direct(net, rule=rlra_jax.KolenPollack())
    plain = rlra_jax.update_fn(net, wiring)
    level = rlra_jax.parallel.level_update_fn(net, wiring, make_mesh(devices=jax.devices()[:1]))
    weights, state = plain.init(KEY)
    expected, came = (jax.jit(step.update)(weights, state, batch, KEY)[0] for step in (plain, level))
    helpers.assert_updates_agree(expected, came)
