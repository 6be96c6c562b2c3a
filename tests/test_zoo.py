"""Models that others could have written: marked, wired and updated once."""

import functools

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from flax import nnx

import rlra_jax
from rlra_jax.experiment.names import RULES

MODELS = {
    'inline_mlp': zoo.InlineMLP,
    'resnet': functools.partial(zoo.ResNet, act=rlra_jax.Site.of(nn.relu)),
    'nnx_cnn': lambda: zoo.NNXCNN(nnx.Rngs(0)),
    'encoder': zoo.Encoder,
}


def images(size=6):
    image = jax.random.normal(jax.random.key(0), (size, 4, 6, 2))
    return {'image': image, 'label': jnp.arange(size) % 4}


def start(model, x):
    """The variables of a linen or an nnx model."""
    return (
        rlra_jax.nnx.variables(model)
        if isinstance(model, nnx.Module)
        else dict(jax.jit(model.init)(jax.random.key(1), x))
    )


@pytest.mark.parametrize('name', helpers.quick(MODELS, 'nnx_cnn'))
def test_every_region_is_updated_and_cut(name):
    model, batch = MODELS[name](), images()
    variables = start(model, batch['image'])
    reached = apart.check_cut(model, batch['image'], variables=variables)
    regions = apart.sites(model, batch['image'])
    assert {region for (region,) in reached.values()} == {region.name for region in regions}

    learner = apart.rec_lra(model, batch['image'], wiring='reverse', normalise=True, mirror_antithetic=False)
    feedback = helpers.filled(jax.eval_shape(learner.init, jax.random.key(2), variables, batch))
    grads, _, aux = jax.jit(learner.update)(variables, feedback, batch, jax.random.key(3))
    assert jax.tree.structure(grads.params) == jax.tree.structure(variables['params'])
    assert np.isfinite(aux.loss)
    sizes = {region.name: 0.0 for region in regions}
    for path, leaf in jax.tree.leaves_with_path(grads.params):
        (region,) = reached[jax.tree_util.keystr(path, simple=True, separator='/')]
        sizes[region] += float(np.abs(leaf).max())
    assert all(size > 0 for size in sizes.values()), sizes
    assert all(np.any(dE) for dE in jax.tree.leaves(grads.synapses))


def test_forward_graph_of_a_residual_network():
    model = zoo.ResNet(act=rlra_jax.Site.of(nn.relu))
    regions = {region.name: region for region in apart.sites(model, images()['image'])}
    assert {name: region.inputs for name, region in regions.items()} == {
        'Site_0': (),
        'block_0/Site_0': ('Site_0',),
        'block_0/Site_1': ('Site_0', 'block_0/Site_0'),
        'block_1/Site_0': ('block_0/Site_1',),
        'block_1/Site_1': ('block_0/Site_1', 'block_1/Site_0'),
        'output': ('block_1/Site_1',),
    }
    assert {name: region.weights for name, region in regions.items()} == {
        'Site_0': (),
        'block_0/Site_0': ('block_0/Conv_0/kernel',),
        'block_0/Site_1': ('block_0/Conv_1/kernel', 'block_0/GroupNorm_0/scale'),
        'block_1/Site_0': ('block_1/Conv_0/kernel',),
        'block_1/Site_1': ('block_1/Conv_1/kernel', 'block_1/Conv_2/kernel', 'block_1/GroupNorm_0/scale'),
        'output': ('readout/kernel',),
    }
    assert regions['block_1/Site_1'].weights_size == 9 * 6 * 6 + 4 * 6 + 6


@pytest.mark.parametrize('remat', [False, True])
def test_of_sums_an_error_meets_no_parameters(remat):
    class Sums(nn.Module):
        @nn.compact
        def __call__(self, x):
            one = rlra_jax.Site(jnp.tanh, name='one')(nn.Dense(3)(x))
            two = rlra_jax.Site(jnp.tanh, name='two')(one + nn.Dense(3)(one))
            three = rlra_jax.Site(jnp.tanh, name='three')(one + two + 1.0)
            four = rlra_jax.Site(jnp.tanh, name='four')(2 * one + (three - two))
            five = rlra_jax.Site(jnp.tanh, name='five')(four + four)
            return nn.Dense(4)(five)

    model = nn.remat(Sums)() if remat else Sums()
    regions = {region.name: region for region in apart.sites(model, jnp.ones((2, 5)))}
    assert {name: (region.inputs, region.weights) for name, region in regions.items()} == {
        'one': ((), ()),
        'two': (('one',), ('Dense_1/kernel',)),
        'three': (('one', 'two'), ()),
        'four': (('one', 'two', 'three'), ()),
        'five': (('four',), ()),
        'output': (('five',), ('Dense_2/kernel',)),
    }


def test_reverse_wiring_follows_the_forward_graph_back_along_its_paths():
    regions = apart.sites(zoo.ResNet(act=rlra_jax.Site.of(nn.relu)), images()['image'])
    wiring = rlra_jax.wire_reverse(regions)
    assert {edge.kind for edge in wiring.edges} == {rlra_jax.Path()}
    assert [{(e.source, e.target) for e in level} for level in wiring.levels] == [
        {('output', 'block_1/Site_1')},
        {('block_1/Site_1', 'block_1/Site_0')},
        {('block_1/Site_1', 'block_0/Site_1'), ('block_1/Site_0', 'block_0/Site_1')},
        {('block_0/Site_1', 'block_0/Site_0')},
        {('block_0/Site_1', 'Site_0'), ('block_0/Site_0', 'Site_0')},
    ]


def test_reverse_wiring_over_the_own_weights_is_backprop_in_the_limit():
    """Skips included: displacements of several edges add up to the gradient as beta -> 0."""

    class Residual(nn.Module):
        @nn.compact
        def __call__(self, x):
            one = rlra_jax.Site(jnp.tanh, name='one')(nn.Conv(3, (3, 3), name='conv_1')(x))
            two = rlra_jax.Site(jnp.tanh, name='two')(nn.Conv(4, (3, 3), name='conv_2')(one))
            three = rlra_jax.Site(jnp.tanh, name='three')(one + nn.Conv(3, (3, 3), name='conv_3')(two))
            four = rlra_jax.Site(jnp.tanh, name='four')(nn.Conv(5, (3, 3), strides=2, name='conv_4')(three))
            return nn.Dense(4, name='readout')(four.reshape(len(four), -1))

    model = Residual()
    with jax.enable_x64(True):
        batch = {'image': jax.random.normal(jax.random.key(0), (3, 4, 4, 2), jnp.float64), 'label': jnp.arange(3)}
        variables = jax.tree.map(jnp.float64, start(model, batch['image']))
        regions = apart.sites(model, batch['image'])
        wiring = rlra_jax.wire_reverse(regions, rule=rlra_jax.Fixed())
        synapses = helpers.own_weights(wiring, regions, variables['params'])
        update = jax.jit(apart.update_fn(model, wiring, beta=1e-5, normalise=True))
        grads, _, _ = update(variables, apart.Feedback(synapses, {'step': jnp.int32(0)}), batch, jax.random.key(3))
        backprop = apart.make_learner('backprop', model, batch['image'])
        expected, _, _ = jax.jit(backprop.update)(
            variables, backprop.init(jax.random.key(2), variables, batch), batch, jax.random.key(3)
        )
        for path, leaf in jax.tree.leaves_with_path(expected.params):
            ours = functools.reduce(lambda tree, key: tree[key.key], path, grads.params)
            np.testing.assert_allclose(ours, leaf, atol=1e-4 * np.abs(leaf).max())


@pytest.mark.parametrize('rule', sorted(RULES))
def test_a_path_without_parameters_works_with_every_rule_and_with_projection(rule):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh, name='one')(nn.Dense(6)(x))
            z = rlra_jax.Site(jnp.tanh, name='two')(z[:, ::-1])
            return nn.Dense(4)(z)

    model, batch = Net(), helpers.make_batch()
    variables = start(model, batch['image'])
    wiring = rlra_jax.wire_reverse(apart.sites(model, batch['image']), rule=RULES[rule]())
    feedback = apart.init_feedback(jax.random.key(3), model, wiring, variables, batch['image'])
    update = jax.jit(apart.update_fn(model, wiring, radius=0.1))
    grads, after, _ = update(variables, feedback, batch, jax.random.key(4))
    assert jax.tree.structure(grads.synapses) == jax.tree.structure(feedback.synapses)
    assert feedback.synapses[1] == after.synapses[1] == grads.synapses[1] == {'two->': {}}
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads.params))


class Hybrid(nn.Module):
    """Two blocks, each with hidden layers of its own that no Site marks: backprop inside, targets at their outputs."""

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            h = nn.Dense(6, name=f'out_{i}')(jnp.tanh(nn.Dense(5, name=f'in_{i}')(x)))
            x = rlra_jax.Site(jnp.tanh, name=f'block_{i}')(h)
        return nn.Dense(4, name='readout')(x)


def test_hybrid_backprop_inside_a_block_starts_from_its_error_neurons():
    """Written out: each layer inside a block learns the gradient of <h, e> that its own block alone would give it."""
    model, batch = Hybrid(), helpers.make_batch()
    variables = start(model, batch['image'])
    wiring = rlra_jax.wire_direct(apart.sites(model, batch['image']), kind=rlra_jax.Dense(), rule=rlra_jax.Fixed())
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'], std=1.0)
    update = jax.jit(apart.update_fn(model, wiring, beta=0.5))
    grads, _, aux = update(variables, feedback, batch, jax.random.key(2))

    params = jax.tree.map(np.asarray, variables['params'])
    z, e_out = np.asarray(batch['image']), np.asarray(jax.nn.softmax(aux.logits)) - np.eye(4)[batch['label']]
    for i in range(2):
        inner, outer = params[f'in_{i}'], params[f'out_{i}']
        a = np.tanh(z @ inner['kernel'] + inner['bias'])
        h = a @ outer['kernel'] + outer['bias']
        e = np.tanh(h) - np.tanh(h - 0.5 * e_out @ np.asarray(feedback.synapses[0][f'output->block_{i}']))
        delta = (e @ outer['kernel'].T) * (1 - a**2)
        np.testing.assert_allclose(grads.params[f'out_{i}']['kernel'], a.T @ e / 12, atol=1e-5)
        np.testing.assert_allclose(grads.params[f'in_{i}']['kernel'], z.T @ delta / 12, atol=1e-5)
        z = np.tanh(h)
