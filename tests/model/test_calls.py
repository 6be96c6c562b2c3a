"""Sites that one pass calls several times: each call is a region."""

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rlra_jax
from rlra_jax import Site
from rlra_jax.model.capture import cut_vjp

BATCH = {'image': jax.random.normal(jax.random.key(0), (3, 5, 4)), 'label': jnp.arange(3)}


class Compact(nn.Module):
    act: object

    @nn.compact
    def __call__(self, x, z):
        return self.act(nn.Dense(6, name='inward')(x) + nn.Dense(6, name='across')(z))


class FromSetup(nn.Module):
    act: object

    def setup(self):
        self.inward, self.across = nn.Dense(6), nn.Dense(6)

    def __call__(self, x, z):
        return self.act(self.inward(x) + self.across(z))


class Unrolled(nn.Module):
    """A cell over the steps of [B, T, n]."""

    cell: type
    act: object

    @nn.compact
    def __call__(self, x):
        cell, z = self.cell(self.act, name='cell'), jnp.zeros((len(x), 6))
        for t in range(x.shape[1]):
            z = cell(x[:, t], z)
        return nn.Dense(4, name='readout')(z)


class NNXUnrolled(nnx.Module):
    """The same in nnx."""

    def __init__(self, remat):
        rngs = nnx.Rngs(0)
        self.inward, self.across = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)
        self.act, self.readout = rlra_jax.nnx.Site(jnp.tanh), nnx.Linear(6, 4, rngs=rngs)
        self.step = nnx.remat(NNXUnrolled.once) if remat else NNXUnrolled.once

    def once(self, x, z):
        return self.act(self.inward(x) + self.across(z))

    def __call__(self, x):
        z = jnp.zeros((len(x), 6))
        for t in range(x.shape[1]):
            z = self.step(self, x[:, t], z)
        return self.readout(z)


MODELS = {
    'one Site': (lambda: Unrolled(Compact, Site(jnp.tanh, name='act')), 'act'),
    'compact': (lambda: Unrolled(Compact, Site.of(jnp.tanh)), 'cell/Site_0'),
    'setup': (lambda: Unrolled(FromSetup, Site.of(jnp.tanh)), 'cell/Site_0'),
    'compact in remat': (lambda: Unrolled(nn.remat(Compact), Site.of(jnp.tanh)), 'cell/Site_0'),
    'setup in remat': (lambda: Unrolled(nn.remat(FromSetup), Site.of(jnp.tanh)), 'cell/Site_0'),
    'nnx': (lambda: NNXUnrolled(remat=False), 'act'),
    'nnx in remat': (lambda: NNXUnrolled(remat=True), 'act'),
}


@pytest.mark.parametrize('name', MODELS)
def test_each_call_is_a_region(name):
    make, site = MODELS[name]
    net = rlra_jax.regions(make(), BATCH)
    calls = [f'{site}#{t}' for t in range(5)]
    assert {region.name: region.inputs for region in net} == {
        name: (below,) if below else () for name, below in zip([*calls, 'output'], [None, *calls], strict=True)
    }
    variables = net.init(jax.random.key(1))
    params = variables['params']
    cell = params.get('cell', params)
    seen, pull = cut_vjp(net, variables, BATCH)
    z, total = np.zeros((3, 6)), np.zeros((4, 6))
    for t, call in enumerate(calls):
        x = BATCH['image'][:, t]
        h = sum(v @ cell[part]['kernel'] + cell[part]['bias'] for v, part in ((x, 'inward'), (z, 'across')))
        np.testing.assert_allclose(seen.h[call], h, atol=1e-5)
        z, total = np.tanh(h), total + (t + 1) * x.sum(axis=0)[:, None]
    # Every call's error is its number, counted from 1: the parameter gets the sum of what each call gives it.
    errors = {call: jnp.full((3, 6), t + 1.0) for t, call in enumerate(calls)} | {'output': jnp.zeros((3, 4))}
    grads = pull(errors)
    np.testing.assert_allclose(grads.get('cell', grads)['inward']['kernel'], total, rtol=1e-4, atol=1e-5)


class Named(nn.Module):
    """A Site that is called twice, one whose name looks like such a call, and one that is called once."""

    @nn.compact
    def __call__(self, x):
        act = Site(jnp.tanh, name='act')
        z = act(nn.Dense(4)(act(nn.Dense(4)(x))))
        z = Site(jnp.tanh, name='act#1')(nn.Dense(4)(z))
        return nn.Dense(4)(Site(jnp.tanh, name='last')(nn.Dense(4)(z)))


def test_no_name_of_a_users_is_taken_for_a_call():
    model, batch = Named(), helpers.make_batch()
    assert [region.name for region in apart.sites(model, batch['image'])] == [
        *('act#0', 'act#1', 'act~21', 'last', 'output')
    ]
    learner = apart.rec_lra(model, batch['image'])
    grads, _, _ = helpers.run_learner(learner, dict(model.init(jax.random.key(0), batch['image'])), batch)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads.params))


class Coder(nn.Module):
    """Two methods with activations that no Site can be made for, one of them called twice."""

    act: object

    def setup(self):
        self.code, self.back, self.readout = nn.Dense(5), nn.Dense(7), nn.Dense(4)

    def encode(self, x):
        return self.act(self.code(x))

    def decode(self, z):
        return self.act(self.back(z))

    def twice(self, x):
        return self.readout(self.encode(self.decode(self.encode(x))))


def test_activations_of_several_methods_have_names_of_their_own():
    batch = helpers.make_batch()

    def names(call):
        return [region.name for region in rlra_jax.regions(Coder(Site.of(jnp.tanh)), batch, call=call)]

    apart_called = names(lambda m, b: m.readout(m.encode(m.decode(m.encode(b['image'])))))
    assert apart_called == ['Site_0#0', 'Site_1', 'Site_0#1', 'output']
    in_one_call = names(lambda m, b: m.twice(b['image']))
    assert in_one_call == ['Site_0', 'Site_1', 'Site_2', 'output']


def test_a_sequence_of_another_length_than_the_example():
    net = rlra_jax.regions(Unrolled(Compact, Site.of(jnp.tanh)), BATCH)
    update = rlra_jax.update_fn(net, rlra_jax.wire_reverse)
    weights, state = update.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"differ in \['cell/Site_0#4'\]. Make a net for each length"):
        update(weights, state, {**BATCH, 'image': BATCH['image'][:, :4]}, jax.random.key(1))


def test_blocks_that_are_called_several_times_are_a_block_at_each_call():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = Site(jnp.tanh, name='one')(nn.Dense(7)(x))
            return Site(jnp.tanh, name='two')(nn.Dense(7)(z))

    class Repeating(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = Block(name='block')
            for _ in range(3):
                x = block(x)
            return nn.Dense(4)(x)

    wiring = rlra_jax.wire_modules(apart.sites(Repeating(), helpers.make_batch()['image']))
    assert [{(edge.source, edge.target) for edge in level} for level in wiring.levels] == [
        {('output', f'block/two#{i}') for i in range(3)},
        {(f'block/two#{i}', f'block/one#{i}') for i in range(3)},
    ]
