import apart
import chex
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest

import rlra_jax
from rlra_jax import Site


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


def test_tied_weights_serve_several_regions():
    cut = apart.check_cut(helpers.Tied(), helpers.make_batch()['image'])
    assert cut.shared == dict.fromkeys(('shared/bias', 'shared/kernel'), ('hidden_1', 'hidden_2'))
    assert "shared: {'shared/bias': ('hidden_1', 'hidden_2'), " in repr(cut)


class Autoencoder(nn.Module):
    """What embeds also reads out, made of the parameter by way of another scale."""

    @nn.compact
    def __call__(self, x):
        table = nn.standardize(self.param('table', nn.initializers.normal(1), (7, 5)))
        return Site(jnp.tanh, name='code')(x @ table) @ table.T


class Repeating(nn.Module):
    """One block several times over."""

    remat: bool = False

    @nn.compact
    def __call__(self, x):
        block, stream = (nn.remat(Branch) if self.remat else Branch)(name='block'), Site(lambda h: h, name='stream')
        z = stream(nn.Dense(6, name='in')(x))
        for _ in range(2):
            z = stream(z + block(z))
        return nn.Dense(4, name='readout')(z)


def test_a_layer_that_embeds_and_reads_out():
    assert apart.check_cut(Autoencoder(), helpers.make_batch()['image']).shared == {'table': ('code', 'output')}


@pytest.mark.parametrize('remat', [False, True])
def test_a_block_that_is_called_several_times(remat):
    cut = rlra_jax.check_cut(apart.sites(Repeating(remat), helpers.make_batch()['image']))
    assert {path: regions for path, regions in cut.shared.items() if path.endswith('kernel')} == {
        'block/in/kernel': ('block/act#0', 'block/act#1'),
        'block/out/kernel': ('stream#1', 'stream#2'),
    }


class Coded(nn.Module):
    """Of van den Oord et al. 2017: the decoder reads the nearest code, and the encoder has its error."""

    straight: bool = True

    @nn.compact
    def __call__(self, x):
        z, codes = Site(jnp.tanh, name='z')(nn.Dense(4)(x)), self.param('codes', nn.initializers.normal(1), (5, 4))
        code = codes[jnp.square(z[:, None] - codes).sum(-1).argmin(-1)]
        return {'x': nn.Dense(7)(z + jax.lax.stop_gradient(code - z) if self.straight else code), 'code': code}


def test_what_is_read_behind_a_stop_or_as_a_whole_number_is_not_read_in_common():
    net, batch, key = rlra_jax.regions(Coded(), helpers.make_batch()), helpers.make_batch(), jax.random.key(0)
    assert rlra_jax.check_cut(net)['codes'] == ('output/code', 'output/x')

    def loss(outputs, batch):
        return sum(jnp.square(outputs[name]).sum(1) for name in outputs)

    wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.KolenPollack(equal=True))
    options = rlra_jax.Options(beta=1e-3, normalise=True)
    weights, state = rlra_jax.learners.backprop(net, loss=loss).init(key)
    exact = rlra_jax.learners.backprop(net, loss=loss)(weights, state, batch, key)[0]['params']
    update = rlra_jax.update_fn(net, wiring, options, loss=loss)
    chex.assert_trees_all_close(update(*update.init(key), batch, key)[0]['params'], exact, rtol=0.02, atol=0.002)
    with pytest.raises(ValueError, match='codes'):
        rlra_jax.check_cut(rlra_jax.regions(Coded(straight=False), helpers.make_batch()))


class Layers(nn.Module):
    """Layers in a loop, whose last activity two readouts read."""

    remat: bool

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Looped) if self.remat else Looped
        loop = nn.scan(layer, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
        z, _ = loop(name='layers')(Site(jnp.tanh, name='first')(nn.Dense(6)(x)), None)
        return {'a': nn.Dense(3)(z), 'b': nn.Dense(1)(z)}


class Looped(nn.Module):
    @nn.compact
    def __call__(self, z, _):
        return Site(jnp.tanh, name='act')(nn.Dense(6)(z)), None


@pytest.mark.parametrize('remat', [False, True])
def test_layers_in_a_loop_that_two_outputs_read(remat):
    cut = rlra_jax.check_cut(rlra_jax.regions(Layers(remat), helpers.make_batch()))
    assert cut['layers/Dense_0/kernel'] == ('layers/act',)


class UncutState(nn.Module):
    """A recurrent network whose Site is not on the state."""

    @nn.compact
    def __call__(self, x):
        act, inward, across = Site(jnp.tanh, name='act'), nn.Dense(4, name='inward'), nn.Dense(4, name='across')
        z = jnp.zeros((len(x), 4))
        for _ in range(3):
            z = 0.5 * z + across(act(inward(x) + z))
        return nn.Dense(4, name='readout')(z)


class AllStepsAtOnce(nn.Module):
    """What is computed of all steps before the loop reaches each of them."""

    @nn.compact
    def __call__(self, x):
        act, across = Site(jnp.tanh, name='act'), nn.Dense(4, name='across')
        rows, z = nn.Dense(4, name='inward')(x.reshape(len(x), 7, 1)), jnp.zeros((len(x), 4))
        for t in range(3):
            z = act(rows[:, t] + across(z))
        return nn.Dense(4, name='readout')(z)


class TiedAndUncut(nn.Module):
    """A layer that serves two regions, each by a use of its own, and a third over a path without a Site."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(7, name='layer')
        h = layer(x)
        z = Site(jnp.tanh, name='one')(h)
        z = Site(jnp.tanh, name='two')(layer(z))
        return nn.Dense(4, name='readout')(z + h)


@pytest.mark.parametrize(
    ('model', 'wrong', 'right'),
    [
        (UncutState(), r"across/kernel: \['act#1', 'act#2', 'output'\]", 'readout'),
        (AllStepsAtOnce(), r"inward/kernel: \['act#0', 'act#1', 'act#2'\]", 'across'),
        (TiedAndUncut(), r"layer/kernel: \['one', 'two', 'output'\]", 'readout'),
    ],
)
def test_what_is_shared_by_a_path_without_a_site_is_refused(model, wrong, right):
    with pytest.raises(ValueError, match=wrong) as error:
        rlra_jax.check_cut(apart.sites(model, helpers.make_batch()['image']))
    assert right not in str(error.value)


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


class Recurrent(nn.Module):
    """A recurrent layer inside a region, below one or several Sites; the readout may share the embedding."""

    cell: type[nn.Module]
    readers: int = 1

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 4, name='embed')
        z = Site(lambda h: h, name='embedded')(embed(tokens))
        carry, y = nn.RNN(self.cell(4, name='cell'), return_carry=True, name='rnn')(z)
        read = y, *(leaf[:, None] for leaf in jax.tree.leaves(carry))
        z = sum(Site(jnp.tanh, name=f'read_{i}')(nn.Dense(4)(read[i])) for i in range(self.readers))
        return embed.attend(z)


TOKENS = {'t': jnp.array([[1, 2, 3, 4], [0, 6, 5, 2], [3, 3, 1, 1]])}


@pytest.mark.parametrize('cell', [nn.LSTMCell, nn.GRUCell, nn.SimpleCell])
def test_what_a_loop_puts_out_to_a_single_region_is_that_regions_own(cell):
    net = rlra_jax.regions(Recurrent(cell), TOKENS, call=lambda model, batch: model(batch['t']))
    reached = rlra_jax.check_cut(net)
    assert {regions for path, regions in reached.items() if path.startswith('cell')} == {('read_0',)}
    assert reached['embed/embedding'] == ('embedded', 'output')


def test_what_a_loop_puts_out_to_two_regions_is_used_in_common():
    """One reads what each step puts out, the other what the last one hands on."""
    net = rlra_jax.regions(Recurrent(nn.SimpleCell, 2), TOKENS, call=lambda model, batch: model(batch['t']))
    with pytest.raises(ValueError, match=r"cell/h/kernel: \['read_0', 'read_1'\]"):
        rlra_jax.check_cut(net)


def test_what_a_loop_hands_on_is_read_by_who_reads_a_later_step():
    class Delayed(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param('w', nn.initializers.normal(), (4, 4))
            steps = x.reshape(-1, 3, 4).swapaxes(0, 1)

            def step(before, x_t):
                now = jnp.tanh(x_t @ w)
                return now, (before, now)

            _, found = jax.lax.scan(step, 0 * steps[0], steps)
            z = [Site(jnp.tanh, name=f'read_{i}')(nn.Dense(4)(own.sum(0))) for i, own in enumerate(found)]
            return nn.Dense(2)(sum(z))

    net = rlra_jax.regions(Delayed(), {'image': jnp.ones((5, 12))})
    with pytest.raises(ValueError, match=r"w: \['read_0', 'read_1'\]"):
        rlra_jax.check_cut(net)
