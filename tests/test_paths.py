import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np

import rlra_jax
from rlra_jax.paths import flatten, join, join_call, readable, refill, split_call


def test_no_two_leaves_share_a_path():
    tree = {'a': {'b': 1, '~1': 2}, 'a/b': 3, '~': {'1': 4}, '~1': (5, [6]), '/': {'0': 7}}
    flat = flatten(tree)
    assert len(flat) == 7
    assert flat['a/b'] == 1
    assert refill(tree, flat) == tree


def test_readable_paths_show_names_as_they_are():
    assert [readable(path) for path in flatten({'a/b': {'~1': 1, '~': 2}})] == ['a/b/~', 'a/b/~1']
    assert readable(join(['~2#', '#1'])) == '~2#/#1'


def test_calls_are_told_from_names_that_look_like_them():
    assert split_call(join_call('cell/act', 12)) == ('cell/act', 12)
    name = join(['cell', 'act#12'])
    assert split_call(name) == (name, None)
    assert split_call(join_call(name, 0)) == (name, 0)


class Slashed(nn.Module):
    """A Site 'a/b' beside a Site 'b' within the module 'a'; the readout beside another parameter of its path."""

    @nn.compact
    def __call__(self, x):
        x = rlra_jax.Site(jnp.tanh, name='a/b')(nn.Dense(5, name='a/dense')(x))
        x = Inner(name='a')(x)
        return nn.Dense(4)(x)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return rlra_jax.Site(jnp.tanh, name='b')(nn.Dense(5, name='dense')(x))


def test_names_with_a_slash_are_no_paths():
    model, batch = Slashed(), helpers.make_batch()
    regions = apart.sites(model, batch['image'])
    assert [region.name for region in regions] == ['a~1b', 'a/b', 'output']
    variables = model.init(jax.random.key(0), batch['image'])
    owners = apart.check_cut(model, batch['image'], variables=variables)
    assert owners['a~1dense/kernel'] == ('a~1b',)
    assert owners['a/dense/kernel'] == ('a/b',)
    learner = apart.make_learner('feedback_alignment', model, batch['image'])
    feedback = learner.init(jax.random.key(1), variables, batch)
    grads = learner.update(variables, feedback, batch, jax.random.key(2))[0].params
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
