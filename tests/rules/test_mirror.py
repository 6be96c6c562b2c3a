"""The rule `mirror`: synapses learn transposed weights, or the averaged Jacobian where they skip layers."""

import functools

import apart
import chex
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from apart import forward

import rlra_jax
from rlra_jax.edges import Wiring
from rlra_jax.paths import flatten
from rlra_jax.rules import Mirror, noisy_passes


def learn(model, variables, wiring, x, steps, rate=0.5, **options):
    """The synapses after so many steps on which the model stands still."""
    feedback = apart.init_feedback(jax.random.key(8), model, wiring, variables, x, std=0.5)
    update = apart.update_fn(model, wiring, **options)
    batch = {'image': x, 'label': jnp.zeros(len(x), jnp.int32)}

    def step(feedback, key):
        grads, feedback, _ = update(variables, feedback, batch, key)
        return feedback._replace(
            synapses=jax.tree.map(lambda E, g: E - rate * g, feedback.synapses, grads.synapses)
        ), ()

    feedback, _ = jax.jit(lambda f: jax.lax.scan(step, f, jax.random.split(jax.random.key(9), steps)))(feedback)
    return {name: E for level in feedback.synapses for name, E in level.items()}


@pytest.mark.parametrize(('phi', 'antithetic'), [('tanh', True), ('relu', False), ('sign', False)])
def test_chain_learns_the_transposed_weights_exactly(phi, antithetic):
    """Noise stops at each source, so the response is linear in it, and the regression has no residual."""
    model, variables, batch = helpers.make_mlp(phi, depth=4)
    wiring = helpers.make_wiring(model, batch['image'], 'chain', rule=Mirror(antithetic=antithetic))
    synapses = learn(model, variables, wiring, batch['image'], 400)
    for edge in wiring.edges:
        above = 'readout' if edge.source == 'output' else edge.source.replace('hidden', 'dense')
        np.testing.assert_allclose(synapses[edge.name], variables['params'][above]['kernel'].T, atol=1e-3)


@pytest.mark.parametrize(
    ('wire', 'passes'),
    [
        (functools.partial(rlra_jax.wire_blocks, gap=4), 3),
        (rlra_jax.wire_chain, 3),
        (functools.partial(rlra_jax.wire_auto, devices=3), 2),
    ],
)
def test_noise_over_a_skip_comes_to_nobody_who_cannot_predict_it(wire, passes):
    """A region feeds the one above it and, over a skip, the next, and may hear but one of them."""
    model, batch = rlra_jax.nn.ResidualMLP(width=6, depth=8, gap=2, phi=lambda h: h), helpers.make_batch(32)
    variables = helpers.filled(model.init(jax.random.key(1), batch['image']), 0.4)
    net = apart.sites(model, batch['image'])
    wiring = wire(net, rule=Mirror())
    assert len(noisy_passes.group(wiring, [region.name for region in net])) == passes
    synapses = learn(model, variables, wiring, batch['image'], 500, normalise=True)
    W = flatten(variables['params'])
    paths = {path: E for name, own in synapses.items() if name.endswith('->') for path, E in own.items()}
    assert len(paths) > 2
    for path, E in paths.items():
        np.testing.assert_allclose(E, W[path], atol=1e-3, err_msg=path)


@jax.custom_vjp
def rounded(W):
    return jnp.round(W * 8) / 8


rounded.defvjp(lambda W: (rounded(W), None), lambda _, g: (g,))


class Quantised(nn.Module):
    """Kernels that pass errors straight through."""

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate((6, 5, 4)):
            x = x @ rounded(self.param(f'kernel_{i}', nn.initializers.normal(0.5), (x.shape[-1], width)))
            x = rlra_jax.Site(jnp.tanh, name=f'hidden_{i}')(x) if i < 2 else x
        return x


def test_paths_of_kernels_with_a_derivative_of_their_own_are_learnt():
    """What a synapse tends to, rounded as the kernel is, is the kernel."""
    model, batch = Quantised(), helpers.make_batch(32)
    variables = model.init(jax.random.key(1), batch['image'])
    wiring = rlra_jax.wire_reverse(apart.sites(model, batch['image']), rule=Mirror())
    synapses = learn(model, variables, wiring, batch['image'], 200, rate=0.3)
    for source, i in (('output', 2), ('hidden_1', 1)):
        E, W = synapses[f'{source}->'][f'kernel_{i}'], variables['params'][f'kernel_{i}']
        np.testing.assert_allclose(E, rounded(W), atol=0.13)  # a step of the rounding


@pytest.mark.parametrize('wiring_name', ['direct', 'blocks'])
def test_skip_edges_learn_the_averaged_jacobian(wiring_name):
    model, variables, _ = helpers.make_mlp('tanh', depth=4)
    x = jax.random.normal(jax.random.key(4), (256, 7))
    wiring = helpers.make_wiring(model, x, wiring_name, rule=Mirror(std=0.05))
    synapses = learn(model, variables, wiring, x, 1500, rate=0.05)
    z = {name: jnp.tanh(h) for name, h in forward(model, variables, x).h.items()}
    params = variables['params']

    def logits_from(layer, z):
        for above in range(layer + 1, 5):
            z = jnp.tanh(z @ params[f'dense_{above}']['kernel'] + params[f'dense_{above}']['bias'])
        return z @ params['readout']['kernel'] + params['readout']['bias']

    outer = [edge for edge in wiring.edges if edge.source == 'output']
    assert len(outer) == {'direct': 4, 'blocks': 2}[wiring_name]
    for edge in outer:
        layer = int(edge.target[7:])
        jacobian = jax.vmap(jax.jacobian(lambda z, layer=layer: logits_from(layer, z)))(z[edge.target]).mean(axis=0)
        assert helpers.cosine(synapses[edge.name], jacobian) > 0.98, edge.name
        np.testing.assert_allclose(jnp.linalg.norm(synapses[edge.name]) / jnp.linalg.norm(jacobian), 1, atol=0.1)


def test_star_inside_a_block_sees_through_regions_that_are_no_source():
    """hidden_3 -> hidden_1 skips hidden_2, which is a target only: noise of hidden_1 must pass it."""
    model, variables, _ = helpers.make_mlp('tanh', depth=3)
    x = jax.random.normal(jax.random.key(4), (256, 7))
    edges = [
        helpers.edge('output', 'hidden_3'),
        helpers.edge('hidden_3', 'hidden_2'),
        helpers.edge('hidden_3', 'hidden_1'),
    ]
    wiring = rlra_jax.wire(apart.sites(model, x), edges)
    synapses = learn(model, variables, wiring, x, 1500, rate=0.05)
    params = variables['params']
    slope = 1 - jnp.tanh(forward(model, variables, x).h['hidden_2']) ** 2
    jacobian = (params['dense_2']['kernel'] * slope.mean(axis=0)) @ params['dense_3']['kernel']
    assert helpers.cosine(synapses['hidden_3->hidden_1'], jacobian.T) > 0.98
    assert helpers.cosine(synapses['hidden_3->hidden_2'], params['dense_3']['kernel'].T) > 0.98


def test_noise_passes_the_sources_of_other_regions():
    """hidden_4 -> hidden_1 spans hidden_3, where noise stops that serves hidden_3 -> hidden_2: they need two passes."""
    model, variables, _ = helpers.make_mlp('tanh', depth=4)
    x = jax.random.normal(jax.random.key(4), (256, 7))
    pairs = [('output', 'hidden_4'), ('hidden_4', 'hidden_3'), ('hidden_3', 'hidden_2'), ('hidden_4', 'hidden_1')]
    wiring = rlra_jax.wire(apart.sites(model, x), [helpers.edge(*ends, rule=Mirror(std=0.05)) for ends in pairs])
    synapses = learn(model, variables, wiring, x, 1500, rate=0.05)
    W = {i: variables['params'][f'dense_{i}']['kernel'] for i in (2, 3, 4)}
    slope = {i: 1 - jnp.tanh(forward(model, variables, x).h[f'hidden_{i}']) ** 2 for i in (2, 3)}
    jacobian = jnp.einsum('ab,xb,bc,xc,cd->da', W[2], slope[2], W[3], slope[3], W[4]) / len(x)
    assert helpers.cosine(synapses['hidden_4->hidden_1'], jacobian) > 0.98
    assert helpers.cosine(synapses['hidden_3->hidden_2'], W[3].T) > 0.999
    assert helpers.cosine(synapses['hidden_4->hidden_3'], W[4].T) > 0.999


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'every': 1.5}, 'every must be a whole number'),
        ({'every': 0}, 'every must be a whole number'),
        ({'std': 0.0}, 'std must be a number above 0'),
        ({'antithetic': 'yes'}, "antithetic must be True or False; got 'yes'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Mirror(**options)


def test_mirrors_of_one_wiring_share_their_passes():
    model, _, batch = helpers.make_mlp(depth=2)
    edges = [helpers.edge('output', 'hidden_2', rule=Mirror(std=0.5)), helpers.edge('output', 'hidden_1')]
    with pytest.raises(ValueError, match=r'share their passes and so a rule; output->hidden_1 has Mirror\(std=0.1'):
        rlra_jax.wire(apart.sites(model, batch['image']), edges)


@pytest.mark.parametrize('order', [1, -1])
def test_regions_that_would_cut_each_other_off_take_passes_of_their_own(order):
    """c stops the noise that a means for d, whichever of a's and b's edges comes first."""
    inner = [helpers.edge('c', 'b'), helpers.edge('d', 'a')][::order]
    wiring = Wiring(('output',), ((helpers.edge('output', 'd'), helpers.edge('output', 'c')), tuple(inner)))
    outer, *others = noisy_passes.group(wiring, ['a', 'b', 'c', 'd', 'output'])
    assert [edge.target for edge in outer] == ['d', 'c']
    assert others == [[edge] for edge in inner]
    (together,) = noisy_passes.group(wiring, ['b', 'c', 'a', 'd', 'output'])[1:]
    assert together == inner


@pytest.mark.parametrize('order', [1, -1])
def test_noise_is_handed_on_below_the_highest_source_whichever_edge_comes_last(order):
    """Of a, which hears b and d: c lies below d, though above b."""
    edges = [helpers.edge('b', 'a'), helpers.edge('d', 'a')][::order]
    sources = {edge.source for edge in edges}
    assert noisy_passes.passed_on(edges, ['a', 'b', 'c', 'd', 'e', 'output'], sources) == {'c'}


def test_every_path_of_a_region_that_hears_the_output_and_another_counts_once():
    """hidden_1 feeds hidden_2 and, over a skip, the readout: its edges learn one path each, not one both."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            below = rlra_jax.Site(jnp.tanh, name='hidden_1')(nn.Dense(6, name='dense_1')(x))
            above = rlra_jax.Site(jnp.tanh, name='hidden_2')(nn.Dense(6, name='dense_2')(below))
            return nn.Dense(4, name='readout')(above) + nn.Dense(4, name='skip')(below)

    model, x = Net(), helpers.make_batch(size=64)['image']
    variables = dict(model.init(jax.random.key(0), x))
    wiring = rlra_jax.wire_reverse(apart.sites(model, x), kind=rlra_jax.Dense())
    synapses = learn(model, variables, wiring, x, 400)
    pairs = {'output->hidden_2': 'readout', 'output->hidden_1': 'skip', 'hidden_2->hidden_1': 'dense_2'}
    assert synapses.keys() == pairs.keys()
    for edge, layer in pairs.items():
        np.testing.assert_allclose(synapses[edge], variables['params'][layer]['kernel'].T, atol=1e-3)


def test_noise_of_the_first_region_passes_on_whatever_the_regions_are_called():
    """The first region hears no noise and is not run again; taken for another one, it would stop the noise there."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(lambda h: h, name='z_first')(nn.Dense(6, name='dense_1')(x))
            z = rlra_jax.Site(lambda h: h, name='a_second')(nn.Dense(6, name='dense_2')(z))
            return nn.Dense(4, name='readout')(z)

    model, x = Net(), helpers.make_batch(size=64)['image']
    variables = dict(model.init(jax.random.key(0), x))
    wiring = helpers.make_wiring(model, x, 'direct', rule='mirror')
    synapses = learn(model, variables, wiring, x, 400)
    kernel = {name: layer['kernel'] for name, layer in variables['params'].items()}
    np.testing.assert_allclose(synapses['output->a_second'], kernel['readout'].T, atol=1e-3)
    np.testing.assert_allclose(synapses['output->z_first'], (kernel['dense_2'] @ kernel['readout']).T, atol=1e-3)


def test_noisy_passes_see_the_input_and_the_dropout_of_the_clean_pass():
    """With one-sided noise, another mask or another noisy input would leave a residual, and E could not be exact."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.5, deterministic=False)(x)
            z = rlra_jax.Site(jnp.tanh, name='hidden_1')(nn.Dense(6, name='dense_1')(x))
            z = rlra_jax.Site(jnp.tanh, name='hidden_2')(nn.Dense(6, name='dense_2')(z))
            return nn.Dense(4, name='readout')(z)

    model, x = Net(), helpers.make_batch(size=64)['image']
    keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    variables = dict(model.init(keys, x))
    wiring = helpers.make_wiring(model, x, 'chain', rule=Mirror(antithetic=False))
    synapses = learn(model, variables, wiring, x, 400, input_noise=1.0)
    for edge, layer in (('output->hidden_2', 'readout'), ('hidden_2->hidden_1', 'dense_2')):
        np.testing.assert_allclose(synapses[edge], variables['params'][layer]['kernel'].T, atol=1e-3)


def test_noisy_passes_drop_what_the_clean_pass_drops_between_regions():
    """Another mask would move a response by far more than noise as small as this does."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh, name='hidden_1')(nn.Dense(6, name='dense_1')(x))
            z = nn.Dropout(0.5, deterministic=False)(z)
            z = rlra_jax.Site(jnp.tanh, name='hidden_2')(nn.Dense(6, name='dense_2')(z))
            return nn.Dense(4, name='readout')(z)

    model, batch = Net(), helpers.make_batch(size=64)
    variables = dict(model.init({'params': jax.random.key(0), 'dropout': jax.random.key(1)}, batch['image']))
    wiring = helpers.make_wiring(model, batch['image'], 'chain', rule=Mirror(std=1e-3, antithetic=False))
    feedback = apart.init_feedback(jax.random.key(2), model, wiring, variables, batch['image'])
    update = apart.update_fn(model, wiring)
    grads, _, _ = jax.jit(update)(variables, feedback, batch, jax.random.key(3))
    assert 0.1 < np.abs(grads.synapses[1]['hidden_2->hidden_1']).max() < 3


class Linear(nn.Module):
    """Maps without a nonlinearity, a strided convolution, a residual skip and a global mean among them."""

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(lambda h: h, name='map_1')(nn.Conv(3, (3, 3), name='conv_1')(x))
        z = rlra_jax.Site(lambda h: h, name='map_2')(nn.Conv(4, (3, 3), strides=(2, 2), name='conv_2')(z))
        z = rlra_jax.Site(lambda h: h, name='map_3')(z + nn.Conv(4, (1, 1), name='conv_3')(nn.relu(x[:, ::2, ::2])))
        z = rlra_jax.Site(lambda h: h, name='tokens')(nn.Dense(5, name='dense')(z))
        return nn.Dense(4, name='readout')(z.mean(axis=(1, 2)))


def test_every_kind_learns_its_exact_transpose_from_noise():
    """Rates near 1 must do for all of them: the step is scaled by how often a parameter is used."""
    model, x = Linear(), jax.random.normal(jax.random.key(0), (16, 4, 6, 2))
    variables = dict(model.init(jax.random.key(1), x))
    edges = [
        helpers.edge('output', 'tokens', 'channel'),
        helpers.edge('tokens', 'map_3', 'token'),
        helpers.edge('map_3', 'map_2', 'path'),
        helpers.edge('map_2', 'map_1', 'conv_transpose'),
    ]
    wiring = rlra_jax.wire(apart.sites(model, x), edges)
    synapses = learn(model, variables, wiring, x, 200, rate=1.0)
    params = variables['params']
    expected = {
        'output->tokens': params['readout']['kernel'].T / 6,  # of the mean over 2 x 3 positions
        'tokens->map_3': params['dense']['kernel'].T,
        'map_3->': {},
        'map_2->map_1': helpers.transposed(params['conv_2']['kernel'], in_front=1),
    }
    chex.assert_trees_all_close(synapses, expected, atol=1e-3)


def test_paths_learn_the_weights_that_they_follow_from_noise():
    model, x = Linear(), jax.random.normal(jax.random.key(0), (16, 4, 6, 2))
    variables = dict(model.init(jax.random.key(1), x))
    regions = apart.sites(model, x)
    wiring = rlra_jax.wire_reverse(regions)
    synapses = learn(model, variables, wiring, x, 200, rate=1.0)
    expected = helpers.own_weights(wiring, regions, variables['params'])
    chex.assert_trees_all_close(synapses, {name: E for level in expected for name, E in level.items()}, atol=1e-3)


class Pooled(nn.Module):
    """Signs, of which the readout sees the larger of every two positions."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(8 * 5, name='dense')(x).reshape(len(x), 8, 5) + jnp.linspace(-0.5, 2, 5)
        z = rlra_jax.Site(jnp.sign, name='map')(h)
        return nn.Dense(4, name='readout')(nn.max_pool(z, (2,), (2,)).mean(axis=1))


def test_a_max_pool_among_ties_hears_half_of_the_noise_and_a_path_follows_the_first():
    """Two coins on a tie move its maximum by half their sum, and E predicts the first: what it learns falls short."""
    model, x = Pooled(), jax.random.normal(jax.random.key(0), (64, 6))
    variables = dict(model.init(jax.random.key(1), x))
    wiring = rlra_jax.wire_reverse(apart.sites(model, x))
    E = learn(model, variables, wiring, x, 1500, rate=0.02)['output->']['readout/kernel']
    z = jnp.sign(forward(model, variables, x).h['map'])
    tied = (z[:, ::2] == z[:, 1::2]).mean(axis=(0, 1))
    assert tied.max() - tied.min() > 0.3
    W = variables['params']['readout']['kernel']
    np.testing.assert_allclose((E * W).sum(axis=1) / (W**2).sum(axis=1), 1 - tied / 2, atol=0.03)


def test_a_region_whose_synapses_tell_different_tiles_apart_gets_coins_for_every_position():
    edges = [
        helpers.edge('output', 'tokens', 'channel'),
        helpers.edge('tokens', 'map_3', 'channel'),
        helpers.edge('map_3', 'map_2', 'grid'),
        helpers.edge('map_3', 'map_1', 'channel'),
        helpers.edge('map_2', 'map_1', 'conv_transpose'),
    ]
    regions = apart.sites(Linear(), jnp.zeros((2, 4, 6, 2)))
    shapes = {region.name: region.shape for region in regions}
    (_, outer), (_, inner) = noisy_passes.passes(rlra_jax.wire(regions, edges), shapes, jax.random.key(0))
    found = {name: noise.tiles for name, noise in (outer | inner).items()}
    assert found == {'tokens': (1, 1), 'map_3': (1, 1), 'map_2': (2, 3), 'map_1': (4, 6)}


def test_rates_below_two_are_stable_with_many_noise_inputs_and_few_examples():
    model = rlra_jax.nn.MLP(widths=(300, 300, 300), classes=4, init_std=0.05)
    x = helpers.make_batch(size=4)['image']
    variables = dict(model.init(jax.random.key(0), x))
    wiring = helpers.make_wiring(model, x, 'direct', rule='mirror')
    synapses = learn(model, variables, wiring, x, 300, rate=1.5)
    assert all(np.linalg.norm(E) < 50 for E in synapses.values())


@pytest.mark.parametrize('every', [2, 3])
def test_runs_every_so_many_steps_only(every):
    model, variables, batch = helpers.make_mlp(depth=2)
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule=Mirror(every=every))
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'])
    update = jax.jit(apart.update_fn(model, wiring))
    moved = []
    for step in range(7):
        grads, feedback, _ = update(variables, feedback, batch, jax.random.key(step))
        moved.append(any(np.any(g) for g in jax.tree.leaves(grads.synapses)))
    assert moved == [step % every == 0 for step in range(7)]
    assert int(feedback.memory['step']) == 7


def test_only_mirrored_edges_move():
    model, variables, batch = helpers.make_mlp(depth=2)
    edges = [helpers.edge('output', 'hidden_2', rule='mirror'), helpers.edge('hidden_2', 'hidden_1', rule='fixed')]
    wiring = rlra_jax.wire(apart.sites(model, batch['image']), edges)
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, batch['image'])
    grads, _, _ = apart.update_fn(model, wiring)(variables, feedback, batch, jax.random.key(0))
    assert np.any(grads.synapses[0]['output->hidden_2'])
    assert not np.any(grads.synapses[1]['hidden_2->hidden_1'])


def test_the_branch_is_taken_under_a_vmap_over_seeds():
    """A batched counter would turn the branch into a select that pays for noisy passes at every step."""
    from rlra_jax.train_step import seed_axes

    model, _, batch = helpers.make_mlp(depth=2)
    learner = apart.rec_lra(model, batch['image'], mirror_every=4)
    step = apart.make_train_step(learner, optax.sgd(0.1))

    def start(key):
        return step.init(key, dict(model.init(key, batch['image'])), batch)

    axes = seed_axes(jax.eval_shape(start, jax.random.key(0)))
    states = jax.vmap(start, out_axes=axes)(jax.random.split(jax.random.key(0), 3))
    update = jax.vmap(step.update, in_axes=(axes, None, None), out_axes=(axes, 0))
    assert 'cond[' in str(jax.make_jaxpr(update)(states, batch, jax.random.key(1)))
    states, _ = jax.jit(update)(states, batch, jax.random.key(1))
    assert states.state.memory['step'].shape == ()
