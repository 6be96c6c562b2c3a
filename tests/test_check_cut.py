import flax.linen as nn
import helpers
import jax.numpy as jnp
import pytest

import rlra_jax


def test_names_the_region_of_each_parameter():
    model, variables, batch = helpers.make_mlp(depth=2)
    expected = {'dense_1': 'hidden_1', 'dense_2': 'hidden_2', 'readout': 'output'}
    reached = rlra_jax.check_cut(model, batch['image'], variables=variables)
    assert reached == {f'{layer}/{part}': (r,) for layer, r in expected.items() for part in ('kernel', 'bias')}


class Stream(nn.Module):
    """A residual stream with Sites only on its branches, or on the stream as well."""

    mark_stream: bool
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        z = nn.Dense(6, name='embed')(x)
        branch = nn.remat(Branch) if self.remat else Branch
        for i in range(2):
            if self.mark_stream:
                z = rlra_jax.Site(lambda h: h, name=f'stream_{i}')(z)
            z = z + branch(name=f'branch_{i}')(z)
        return nn.Dense(4, name='readout')(z)


class Branch(nn.Module):
    @nn.compact
    def __call__(self, z):
        return nn.Dense(6, name='out')(rlra_jax.Site(jnp.tanh, name='act')(nn.Dense(6, name='in')(z)))


@pytest.mark.parametrize('remat', [False, True])
def test_stream_that_bypasses_every_site(remat):
    with pytest.raises(ValueError, match=r"embed/kernel: \['branch_0/act', 'branch_1/act', 'output'\]") as error:
        rlra_jax.check_cut(Stream(mark_stream=False, remat=remat), helpers.make_batch()['image'])
    assert 'branch_0/out/kernel' in str(error.value)
    assert 'branch_0/in/kernel' not in str(error.value)
    assert 'readout' not in str(error.value)


@pytest.mark.parametrize('remat', [False, True])
def test_a_site_on_the_stream_mends_it(remat):
    reached = rlra_jax.check_cut(Stream(mark_stream=True, remat=remat), helpers.make_batch()['image'])
    assert reached['embed/kernel'] == ('stream_0',)
    assert reached['branch_0/out/kernel'] == ('stream_1',)


def test_what_is_declared_is_allowed():
    model, x = Stream(mark_stream=False), helpers.make_batch()['image']
    with pytest.raises(ValueError, match='branch_0/out/kernel') as error:
        rlra_jax.check_cut(model, x, allow=('embed',))
    assert 'embed/kernel' not in str(error.value)
    rlra_jax.check_cut(model, x, allow=('embed', 'branch_0/out'))


def test_allowing_what_does_not_exist():
    with pytest.raises(ValueError, match=r"`allow` names no parameter by \['embd'\]"):
        rlra_jax.check_cut(Stream(mark_stream=False), helpers.make_batch()['image'], allow=('embd',))


def test_tied_weights_reach_several_regions():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = nn.Dense(7, name='shared')
            z = rlra_jax.Site(jnp.tanh, name='one')(shared(x))
            return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='two')(shared(z)))

    with pytest.raises(ValueError, match=r"shared/kernel: \['one', 'two'\]"):
        rlra_jax.check_cut(Tied(), helpers.make_batch()['image'])
    rlra_jax.check_cut(Tied(), helpers.make_batch()['image'], allow=['shared'])


def test_parameter_that_nothing_uses():
    class Idle(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param('idle', nn.initializers.zeros, (3,))
            return nn.Dense(4)(rlra_jax.Site(jnp.tanh)(nn.Dense(4)(x)))

    with pytest.raises(ValueError, match='idle: no region'):
        rlra_jax.check_cut(Idle(), helpers.make_batch()['image'])


def test_several_layers_inside_a_region_are_local_backprop():
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(6, name='b')(jnp.tanh(nn.Dense(6, name='a')(x)))
            return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='hidden')(h))

    reached = rlra_jax.check_cut(Deep(), helpers.make_batch()['image'])
    assert reached['a/kernel'] == reached['b/kernel'] == ('hidden',)
