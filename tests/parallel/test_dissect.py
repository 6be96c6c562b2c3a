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
