import re

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest

import rlra_jax


class Averaging(nn.Module):
    """Names two axes of devices, one of them in a layer of its own."""

    axes: tuple[str, ...]

    @nn.compact
    def __call__(self, x):
        for axis in self.axes:
            h = nn.Dense(5, use_bias=False)(x)
            x = rlra_jax.Site(jnp.tanh)(h - jax.lax.pmean(h.mean(), axis))
        return nn.Dense(4)(x)


def test_a_model_is_looked_at_before_its_axes_exist():
    """Nothing that is asked of it sees the axes."""
    x = helpers.make_batch()['image']
    several, one = Averaging(('data', 'model')), Averaging(('data', 'data'))
    assert list(apart.sites(several, x)) == list(apart.sites(one, x))
    assert apart.check_cut(several, x) == apart.check_cut(one, x)
    assert [found.function for found in apart.find_activations(several, x)] == ['tanh', 'tanh']
    wiring = rlra_jax.wire_chain(apart.sites(several, x))
    assert apart.summary(several, wiring, x) == apart.summary(one, wiring, x)
    for name in rlra_jax.LEARNERS:
        apart.make_learner(name, several, x)


def test_a_step_without_the_axis_is_an_error():
    batch = helpers.make_batch()
    model = Averaging(('data',))
    learner = apart.make_learner('lra_e', model, batch['image'])
    variables = {'params': helpers.filled(apart.variable_shapes(model, batch['image'])['params'])}
    feedback = learner.init(jax.random.key(0), variables, batch)
    with pytest.raises(NameError, match=re.escape('unbound axis name: data')):
        learner.update(variables, feedback, batch, jax.random.key(1))


def test_an_axis_may_have_any_name():
    x = helpers.make_batch()['image']
    assert list(apart.sites(Averaging(('data-axis', '1')), x)) == list(apart.sites(Averaging(('data', 'model')), x))


def test_names_that_are_no_axes():
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nonsense(x)  # noqa: F821

    with pytest.raises(NameError, match="'nonsense' is not defined"):
        apart.sites(Broken(), helpers.make_batch()['image'])
