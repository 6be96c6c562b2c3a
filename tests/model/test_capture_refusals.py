"""Models, inputs and activation functions that cannot be captured, and what is said instead."""

import functools

import apart
import flax.linen as nn
import helpers
import jax.numpy as jnp
import pytest

import rlra_jax
from rlra_jax import Site


def test_sites_hidden_in_a_jitted_module():
    """flax caches the trace of nn.jit, so a second capture would silently see fewer regions."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(7, name='dense')(x))

    jitted = nn.jit(Block)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, block in enumerate((Block, jitted, Block)):
                x = block(name=f'block_{i}')(x)
            return nn.Dense(4)(x)

    model, x = Net(), helpers.make_batch()['image']
    with pytest.raises(ValueError, match=r"Sites \['block_1/act'\] sit in a lifted transform .* jit the whole update"):
        apart.sites(model, x)


class Reused(nn.Module):
    @nn.compact
    def __call__(self, x):
        act = rlra_jax.Site(jnp.tanh, name='act')
        return nn.Dense(4)(act(nn.Dense(4)(act(nn.Dense(4)(x)))))


class NamedOutput(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='output')(nn.Dense(4)(x)))


class Shrinking(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(rlra_jax.Site(lambda h: h.sum(axis=1, keepdims=True))(nn.Dense(4)(x)))


class Boolean(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(rlra_jax.Site(lambda h: h > 0)(nn.Dense(4)(x)))


class TwoHeads(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh)(nn.Dense(4)(x))
        return nn.Dense(4)(z), nn.Dense(4)(z)


class TimeMajor(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(5)(jnp.stack([x, 2 * x, 3 * x]))
        return nn.Dense(4)(Site(jnp.tanh)(h).mean(0))


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(Site(lambda h: h)((x, x))[0])


class Sum(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(Site(jnp.tanh)(nn.Dense(5)(x))).sum(0, keepdims=True)


def test_time_steps_that_are_as_many_as_examples():
    with pytest.raises(ValueError, match=r"h of Site 'Site_0' must have the 4 examples .* got \(3, 4, 5\)"):
        apart.sites(TimeMajor(), jnp.ones((3, 4)))


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (TimeMajor(), r"the h of Site 'Site_0' must have the 12 examples along its first axis; got \(3, 12, 5\)"),
        (Pair(), "the h of Site 'Site_0' must have the 12 examples along its first axis; got"),
        (Sum(), r'must return logits \[B, classes\], here \[12, classes\]; got \(1, 4\)'),
        (Reused(), "Site 'act' is called twice"),
        (NamedOutput(), "the region 'output' is the logits; give the Site of that name another one"),
        (Shrinking(), r"phi of Site 'Site_0' must keep the shape of h, \(12, 4\); it returned \(12, 1\)"),
        (Boolean(), "phi of Site 'Site_0' must return a floating activity; it returned bool"),
        (TwoHeads(), r'must return logits \[B, classes\], here \[12, classes\]; got'),
    ],
)
def test_models_that_cannot_be_captured(model, message):
    with pytest.raises(ValueError, match=message):
        apart.sites(model, helpers.make_batch()['image'])


LOOKS = {  # what first looks at a model
    'sites': apart.sites,
    'check_cut': apart.check_cut,
    'find_activations': apart.find_activations,
    'rec_lra': functools.partial(apart.make_learner, 'rec_lra'),
    'backprop': functools.partial(apart.make_learner, 'backprop'),
}


@pytest.mark.parametrize('name', LOOKS)
@pytest.mark.parametrize(
    ('x', 'message'),
    [
        (jnp.ones((3, 5), jnp.int32), r'x must be floating; got int32 \(3, 5\): .* tokens as one-hot vectors'),
        ({'image': jnp.ones((3, 5))}, 'x must be an array .*, the only input of the model; got dict'),
        (jnp.ones(()), r'x must be an array .*; got shape \(\)'),
        (jnp.ones((0, 5)), 'x must be at least one example'),
        (None, 'x must be an array .*; got NoneType'),
    ],
)
def test_inputs_that_no_model_is_looked_at_with(name, x, message):
    with pytest.raises(ValueError, match=message):
        LOOKS[name](nn.Sequential([nn.Dense(5), Site(jnp.tanh), nn.Dense(4)]), x)


@pytest.mark.parametrize('make', [Site, Site.of, rlra_jax.nnx.Site])
@pytest.mark.parametrize('phi', ['tanh', None])
def test_a_phi_that_is_no_function(make, phi):
    with pytest.raises(ValueError, match=r"phi must be a function, such as jnp.tanh or ACTIVATIONS\['tanh'\]; got"):
        make(phi)
