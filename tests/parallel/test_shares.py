"""Outputs that are a sum: which block makes what of them."""

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax.parallel.blocks import find_runs
from rlra_jax.parallel.dissect import dissect
from rlra_jax.parallel.shares import SUM, Shares
from rlra_jax.recursion.options import Options

KEY = jax.random.key(0)


class Read(nn.Module):
    """Three layers, all of which the output reads."""

    how: str = 'sum'

    @nn.compact
    def __call__(self, x):
        z = [x]
        for name in 'abc':
            z.append(rlra_jax.Site(jnp.tanh, name=name)(nn.Dense(5, name=f'to_{name}')(z[-1])))
        if self.how == 'tied':
            shared = nn.Dense(4, name='shared')
            return nn.Dense(4, name='read_a')(z[1]) + shared(z[2]) + shared(z[3])
        terms = [
            nn.Dense(4, use_bias=name == 'c', name=f'read_{name}')(own) for name, own in zip('abc', z[1:], strict=True)
        ]
        if self.how == 'scaled':
            return 2 * sum(terms)
        if self.how == 'product':
            return terms[0] + terms[1] * terms[2]
        if self.how == 'image':
            return sum(terms) + nn.Dense(4, name='straight')(x)
        if self.how == 'twice':
            return terms[2] + (terms[0] + nn.Dense(4, name='again')(z[1])) + terms[1]
        return sum(terms)


def parts_of(how, size=6):
    batch = helpers.make_batch(size)
    net = rlra_jax.regions(Read(how), batch)
    return net, batch, dissect(net, net.variable_shapes(), batch['image'], KEY)


@pytest.mark.parametrize(
    ('how', 'apart'),
    [
        ('sum', 'ab'),
        ('twice', 'ab'),
        ('image', 'ab'),  # the image's own term keeps the blocks together, as it did
        ('tied', 'a'),  # a parameter lies with one block
        ('product', 'a'),
        ('scaled', ''),
    ],
)
def test_what_the_output_reads_by_a_term_of_its_own(how, apart):
    *_, parts = parts_of(how)
    assert Shares(parts).apart == set(apart)


@pytest.mark.parametrize(
    'blocks', [('a', 'b', ('c', 'output')), (('a', 'b'), ('c', 'output')), (('a', 'b', 'c', 'output'),)]
)
@pytest.mark.parametrize('how', ['sum', 'twice', 'product'])
def test_shares_add_up(how, blocks):
    net, batch, parts = parts_of(how)
    variables = helpers.filled(net.variable_shapes())
    params = rlra_jax.paths.flatten(variables['params'])
    z = {'~': batch['image'], SUM: jnp.zeros((6, 4))}
    shares = Shares(parts)
    if how == 'product':
        blocks = [('a',), ('b', 'c', 'output')]
    held = []
    for block in blocks:
        for name, part in shares.of(block).items():
            _, z[name], _ = part.run(params, {}, z, KEY)
            held += part.params
        z[SUM] = z.get('output', z[SUM])
    np.testing.assert_allclose(z[SUM], net.model.apply(variables, batch['image']), atol=1e-6)
    assert sorted(held) == sorted(params)


def test_a_share_reads_what_its_block_knows():
    *_, parts = parts_of('sum')
    shares = Shares(parts)
    share = shares.of(['b'])['output']
    assert set(share.parents) == {SUM, 'b'}
    assert share.params == ('read_b/kernel',)
    assert share.region.weights == ('read_b/kernel',)
    assert set(shares.of(['c', 'output'])['output'].parents) == {SUM, 'c'}
    assert 'output' not in shares.of([])
    assert Shares(parts_of('scaled')[-1]).of(['a']).keys() == {'a'}


@pytest.mark.parametrize(
    ('how', 'rule', 'expected'),
    [
        ('sum', 'kp', [['a'], ['b'], ['c', 'output']]),
        ('tied', 'kp', [['a'], ['b', 'c', 'output']]),
        ('sum', 'mirror', None),  # noise at a is heard by the whole output, whatever lies between
        ('scaled', 'kp', None),
        ('image', 'kp', None),
    ],
)
def test_blocks_of_readers(how, rule, expected):
    net, _, parts = parts_of(how)
    wiring = rlra_jax.wire_direct(net, rule=helpers.RULES[rule]())
    if expected is None:
        with pytest.raises(ValueError, match='one activity'):
            find_runs(parts, wiring, Options())
        return
    blocks = [block for run in find_runs(parts, wiring, Options()) for block in run]
    assert [list(block.regions) for block in blocks] == expected
    for block in blocks:  # E lies where the parameters that it stands for do
        assert {name.removeprefix('output-> ') for name in block.edges} <= set(block.params)
    assert sorted(path for block in blocks for path in block.params) == sorted(
        path for part in parts.values() for path in part.params
    )


def test_blocks_that_read_alike_are_one_run():
    """Means over cells are the same constant in each, however often it is made."""
    batch = {'image': jnp.zeros((2, 8, 8, 3)), 'label': jnp.zeros(2, int)}
    net = rlra_jax.regions(rlra_jax.nn.ViT(width=8, depth=4, heads=2, readout='all'), batch)
    wiring = rlra_jax.wire_modules(net, rule=rlra_jax.KolenPollack())
    parts = dissect(net, net.variable_shapes(), batch['image'], KEY)
    assert [len(run) for run in find_runs(parts, wiring, Options())] == [1, 2, 1]
