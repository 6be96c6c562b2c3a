import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest

import rlra_jax


def test_names_the_region_of_each_parameter():
    model, variables, batch = helpers.make_mlp(depth=2)
    expected = {'dense_1': 'hidden_1', 'dense_2': 'hidden_2', 'readout': 'output'}
    reached = apart.check_cut(model, batch['image'], variables=variables)
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
        apart.check_cut(Stream(mark_stream=False, remat=remat), helpers.make_batch()['image'])
    assert 'branch_0/out/kernel' in str(error.value)
    assert 'branch_0/in/kernel' not in str(error.value)
    assert 'readout' not in str(error.value)


@pytest.mark.parametrize('remat', [False, True])
def test_a_site_on_the_stream_mends_it(remat):
    reached = apart.check_cut(Stream(mark_stream=True, remat=remat), helpers.make_batch()['image'])
    assert reached['embed/kernel'] == ('stream_0',)
    assert reached['branch_0/out/kernel'] == ('stream_1',)


def test_what_is_declared_is_allowed():
    model, x = Stream(mark_stream=False), helpers.make_batch()['image']
    with pytest.raises(ValueError, match='branch_0/out/kernel') as error:
        apart.check_cut(model, x, allow=('embed',))
    assert 'embed/kernel' not in str(error.value)
    apart.check_cut(model, x, allow=('embed', 'branch_0/out'))


def test_allowing_what_does_not_exist():
    with pytest.raises(ValueError, match=r"`allow` names no parameter by \['embd'\]"):
        apart.check_cut(Stream(mark_stream=False), helpers.make_batch()['image'], allow=('embd',))


def test_tied_weights_reach_several_regions():
    model, x = helpers.Tied(), helpers.make_batch()['image']
    with pytest.raises(ValueError, match=r"shared/kernel: \['hidden_1', 'hidden_2'\]"):
        apart.check_cut(model, x)
    apart.check_cut(model, x, allow=['shared'])


def test_parameter_that_nothing_uses():
    class Idle(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param('idle', nn.initializers.zeros, (3,))
            return nn.Dense(4)(rlra_jax.Site(jnp.tanh)(nn.Dense(4)(x)))

    with pytest.raises(ValueError, match='idle: no region'):
        apart.check_cut(Idle(), helpers.make_batch()['image'])


def test_several_layers_inside_a_region_are_local_backprop():
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(6, name='b')(jnp.tanh(nn.Dense(6, name='a')(x)))
            return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='hidden')(h))

    reached = apart.check_cut(Deep(), helpers.make_batch()['image'])
    assert reached['a/kernel'] == reached['b/kernel'] == ('hidden',)


def test_a_model_without_a_site():
    """All of it would be backprop in silence."""
    with pytest.raises(ValueError, match='the model has no Site, and all of it would be one region'):
        apart.check_cut(nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(4)]), helpers.make_batch()['image'])


def test_names_what_is_not_linear_inside_a_region():
    """Of a block that brings relus of its own, though an activation was handed over."""

    class Block(nn.Module):
        act: object

        @nn.compact
        def __call__(self, z):
            return self.act(nn.BatchNorm(use_running_average=False)(nn.Dense(6)(nn.relu(nn.Dense(6)(z)))) + z)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            act = rlra_jax.Site.of(jnp.tanh)
            z = act(2 * nn.Dense(6)(x) / 3 + 1)
            z = Block(act, name='block')(z)
            z = act(nn.softmax(z @ z.T) @ nn.Dense(6)(z))
            z = act(jnp.where(z > 0, z, 0.1 * z) + nn.remat(nn.Dense)(6)(z) ** 2)
            return nn.Dense(4)(nn.LayerNorm()(z))

    expected = {
        'Site_0': (),
        'block/Site_0': ('relu', 'normalisation'),
        'Site_1': ('dot_general', 'softmax'),
        'Site_2': ('gt', 'select_n', 'integer_pow'),
        'output': ('normalisation',),
    }
    cut = apart.check_cut(Net(), helpers.make_batch()['image'])
    assert {name: set(kept) for name, kept in cut.inside.items()} == {name: set(k) for name, k in expected.items()}
    assert "'block/Site_0': ('relu', 'normalisation')" in repr(cut)


def test_inference_by_running_statistics_is_linear():
    cut = apart.check_cut(helpers.Normed(), helpers.make_batch()['image'])
    assert cut.inside == {'hidden': (), 'output': ()}
    cut = apart.check_cut(helpers.Normed(), helpers.make_batch()['image'], train_kwargs={'train': True})
    assert cut.inside == {'hidden': ('normalisation',), 'output': ()}


def test_convolutions_pooling_and_a_loop():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh, name='mean')(nn.avg_pool(nn.Conv(3, (3, 3))(x), (2, 2), (2, 2)))
            z = rlra_jax.Site(jnp.tanh, name='most')(nn.max_pool(nn.Conv(3, (3, 3))(z), (2, 2)))
            h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h), None), nn.Dense(3)(z), length=2)
            return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='loop')(h).mean(axis=(1, 2)))

    cut = apart.check_cut(Net(), jax.ShapeDtypeStruct((2, 6, 6, 2), jnp.float32))
    assert cut.inside == {'mean': (), 'most': ('reduce_window_max',), 'loop': ('tanh',), 'output': ()}
