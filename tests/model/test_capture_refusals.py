"""Models, inputs and activation functions that cannot be captured, and what is said instead."""

from typing import Any

import apart
import flax.linen as nn
import helpers
import jax.numpy as jnp
import pytest

import rlra_jax
from rlra_jax import Site


def test_sites_hidden_by_a_transform():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(7, name='dense')(x))

    class Net(nn.Module):
        transform: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(self.transform(self, x))

    def mapped(module, x):
        return nn.vmap(Block, variable_axes={'params': None}, split_rngs={'params': False})(parent=module)(x)

    def branched(module, x):
        act = rlra_jax.Site(jnp.tanh, name='act', parent=module)
        return nn.cond(x.sum() > 0, lambda act, x: act(x), lambda act, x: x, act, x)

    for transform, message in (
        (mapped, r"Site '.*act' sits in a transform that hides it \(vmap or grad\)"),
        (branched, r"Sites \['.*act'\] sit in cond, where their h cannot be seen"),
    ):
        with pytest.raises(ValueError, match=message):
            apart.sites(Net(transform), helpers.make_batch()['image'])


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
        (Pair(), "the h of Site 'Site_0' must be an array; got"),
        (Sum(), r'must return a floating array \[B, ...\], here \[12, ...\], or several by name; got float32 \(1, 4\)'),
        (NamedOutput(), "the region 'output' is what the model returns; give the Site of that name another one"),
        (Shrinking(), r"phi of Site 'Site_0' must keep the shape of h, \(12, 4\); it returned \(12, 1\)"),
        (Boolean(), "phi of Site 'Site_0' must return a floating activity; it returned bool"),
        (TwoHeads(), r"or several by name; got \('float32 \(12, 4\)', 'float32 \(12, 4\)'\)"),
    ],
)
def test_models_that_cannot_be_captured(model, message):
    with pytest.raises(ValueError, match=message):
        apart.sites(model, helpers.make_batch()['image'])


@pytest.mark.parametrize(
    ('batch', 'message'),
    [
        (None, r'a batch is a mapping of arrays \[B, ...\], .*; got NoneType'),
        (jnp.ones((3, 5)), r'a batch is a mapping of arrays \[B, ...\], .*; got ArrayImpl'),
        ({}, 'a batch is a mapping of arrays .*; got an empty one'),
        (
            {'label': jnp.ones(3)},
            r"the model is called on batch\['image'\]; the batch holds \['label'\]",
        ),
        ({'image': None}, r"batch\['image'\] must be an array \[B, ...\]; got NoneType"),
        ({'image': {'left': jnp.ones((3, 5))}}, r"batch\['image'\] must be an array \[B, ...\]; got dict"),
        ({'image': jnp.ones(())}, r"batch\['image'\] must be an array \[B, ...\]; got shape \(\)"),
        ({'image': jnp.ones((0, 5))}, 'must be of at least one example'),
        (
            {'image': jnp.ones((3, 5)), 'label': jnp.ones(4)},
            "of one length, .*; got {'image': 3, 'label': 4}",
        ),
        ({'image': jnp.ones((3, 5), jnp.int32)}, r'must be floating; got int32 \(3, 5\): .* give tokens another name'),
    ],
)
def test_batches_that_no_model_is_looked_at_with(batch, message):
    with pytest.raises(ValueError, match=message):
        rlra_jax.regions(nn.Sequential([nn.Dense(5), Site(jnp.tanh), nn.Dense(4)]), batch)


@pytest.mark.parametrize('make', [Site, Site.of, rlra_jax.nnx.Site])
@pytest.mark.parametrize('phi', ['tanh', None])
def test_a_phi_that_is_no_function(make, phi):
    with pytest.raises(ValueError, match=r"phi must be a function, such as jnp.tanh or ACTIVATIONS\['tanh'\]; got"):
        make(phi)


@pytest.mark.parametrize('make', [Site, Site.of, rlra_jax.nnx.Site])
def test_a_phi_that_holds_parameters(make):
    with pytest.raises(ValueError, match=r'the module PReLU, whose parameters no region would hold: apply it before'):
        make(nn.PReLU())


class Graph(nn.Module):
    """Its examples are the nodes of a graph."""

    width: int

    @nn.compact
    def __call__(self, batch):
        z = rlra_jax.Site(jnp.tanh)(batch['edges'] @ nn.Dense(self.width)(batch['image']))
        return batch['edges'] @ nn.Dense(4)(z)


def test_as_many_units_as_there_are_nodes():
    batch = {**helpers.make_batch(), 'edges': jnp.eye(12)}
    call = lambda module, batch: module(batch)  # noqa: E731
    assert [region.shape for region in rlra_jax.regions(Graph(8), batch, call=call)] == [(12, 8), (12, 4)]
    with pytest.raises(ValueError, match=r'second axis of 12, .* take layers of another width'):
        rlra_jax.regions(Graph(12), batch, call=call)
