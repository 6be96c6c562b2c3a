"""A model bound to its call."""

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax


class Joined(nn.Module):
    """Reads integer tokens and a mask, and must be told whether it trains."""

    @nn.compact
    def __call__(self, tokens, mask, *, train):
        z = nn.Embed(9, 6)(tokens) * mask[..., None]
        z = rlra_jax.Site(jnp.tanh, name='hidden')(nn.Dense(6)(z.sum(axis=1)))
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(z))


def joined(call=None):
    batch = {'tokens': jnp.arange(20).reshape(4, 5) % 9, 'mask': jnp.ones((4, 5)), 'label': jnp.arange(4)}
    call = call or (lambda module, batch: module(batch['tokens'], batch['mask'], train=True))
    return rlra_jax.regions(Joined(), batch, call=call), batch


def test_a_call_reads_what_it_likes_of_a_batch():
    net, batch = joined()
    assert [region.name for region in net] == ['hidden', 'output']
    update = rlra_jax.update_fn(net, rlra_jax.wire_reverse)
    weights, state = update.init(jax.random.key(0))
    one, same, other = (jax.jit(update)(weights, state, batch, jax.random.key(k))[2].outputs for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)  # dropout follows the key
    grads, _, _ = update(weights, state, batch, jax.random.key(1))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads['params']))


def test_the_default_call_trains_where_the_model_takes_that():
    x = helpers.make_batch()['image']
    net = rlra_jax.regions(helpers.Normed(), {'image': x})
    update = rlra_jax.update_fn(net, loss=lambda outputs, batch: (outputs**2).sum(axis=-1))
    weights, state = update.init(jax.random.key(0))
    _, after, _ = update(weights, state, {'image': x}, jax.random.key(1))
    assert np.any(after.collections['batch_stats']['norm']['mean'])


def test_a_net_is_the_sequence_of_its_regions():
    model, _, batch = helpers.make_mlp(depth=2)
    net = rlra_jax.regions(model, batch)
    assert len(net) == 3
    assert net[-1].name == 'output'
    assert [region.name for region in net[:2]] == ['hidden_1', 'hidden_2']
    assert rlra_jax.wire_chain(net) == rlra_jax.wire_chain(list(net))


@pytest.mark.parametrize(
    ('batch', 'call', 'message'),
    [
        ({}, None, 'a batch is a mapping of arrays .* got an empty one'),
        (jnp.zeros((3, 4)), None, 'a batch is a mapping of arrays .* got '),
        ({'x': jnp.zeros((3, 4))}, None, r"without a call .* batch\['image'\]; the batch holds \['x'\]"),
        ({'image': jnp.zeros((3, 4)), 'label': jnp.zeros(2)}, None, "of one length, the examples; got .*'label': 2"),
        ({'image': jnp.zeros((3, 4))}, 'train', "call must be a function of module and batch, .* got 'train'"),
        ({'image': jnp.zeros((3, 4))}, lambda module: module, 'call must be a function of module and batch'),
    ],
)
def test_what_no_model_can_be_bound_to(batch, call, message):
    with pytest.raises(ValueError, match=message):
        rlra_jax.regions(helpers.make_mlp()[0], batch, call=call)


def test_a_batch_may_hold_random_keys():
    model, _, batch = helpers.make_mlp(depth=2)
    keys = jax.random.split(jax.random.key(3), 12)

    def call(module, batch):
        return module(batch['image'] + jax.vmap(lambda key: jax.random.normal(key, (7,)))(batch['noise']))

    net = rlra_jax.regions(model, {**batch, 'noise': keys}, call=call)
    update = rlra_jax.update_fn(net, rlra_jax.wire_chain(net))
    weights, state = update.init(jax.random.key(0))
    grads, _, _ = update(weights, state, {**batch, 'noise': keys}, jax.random.key(1))
    assert all(map(jnp.any, jax.tree.leaves(grads['params'])))


def test_what_is_no_net():
    model, _, batch = helpers.make_mlp()
    with pytest.raises(ValueError, match=r'net must be what rlra_jax\.regions\(model, batch\) returns'):
        rlra_jax.update_fn(model)
    net = rlra_jax.regions(model, batch)
    with pytest.raises(ValueError, match=r'options must be an Options, .* got 0\.1'):
        rlra_jax.update_fn(net, rlra_jax.wire_blocks, 0.1)
