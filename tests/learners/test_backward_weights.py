"""FA, KP, WM and SS against backprop, or a closed form."""

from typing import Any

import apart
import flax
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo
from flax import nnx

import rlra_jax
from rlra_jax.learners import policies
from rlra_jax.learners.backward import Policy
from rlra_jax.paths import flatten


def true_magnitudes():
    return Policy(None, lambda E, W, key: jnp.abs(W) * jnp.sign(W))


@pytest.mark.parametrize('make', [helpers.make_mlp, helpers.make_conv])
@pytest.mark.parametrize('policy', [policies.transpose, true_magnitudes], ids=['transpose', 'signs'])
def test_backward_weights_equal_to_w_are_backprop(make, policy):
    """FA with E = W^T, and sign symmetry with true magnitudes, are backprop; shared, strided and padded taps too."""
    model, variables, batch = make()
    learner = apart.asymmetric(model, batch['image'], lambda paths: dict.fromkeys(paths, policy()))
    grads, _, _ = helpers.run_learner(learner, variables, batch)
    expected = helpers.gradient(model, variables, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads.params, expected)


def test_backward_weights_are_what_the_error_passes():
    """By hand, on a net of two hidden layers with biases: delta_1 = phi'(h_1) (delta_2 B_2^T)."""
    model, variables, batch = helpers.make_mlp(depth=2)
    learner = apart.make_learner('feedback_alignment', model, batch['image'])
    feedback = learner.init(jax.random.key(2), variables, batch)
    assert set(feedback.synapses) == {'dense_2/kernel', 'readout/kernel'}  # nothing passes dense_1 on its way down
    grads, _, _ = helpers.run_learner(learner, variables, batch, feedback)
    (W, b), x = helpers.layers(variables['params']), np.asarray(batch['image'], np.float64)
    z1 = np.tanh(x @ W[0] + b[0])
    z2 = np.tanh(z1 @ W[1] + b[1])
    shifted = np.exp(z2 @ W[2] + b[2])
    e = shifted / shifted.sum(axis=1, keepdims=True) - np.eye(4)[np.asarray(batch['label'])]
    delta_2 = (1 - z2**2) * (e @ np.asarray(feedback.synapses['readout/kernel']).T)
    delta_1 = (1 - z1**2) * (delta_2 @ np.asarray(feedback.synapses['dense_2/kernel']).T)
    kernels, biases = helpers.layers(grads.params)
    for i, (signal, delta) in enumerate([(x, delta_1), (z1, delta_2), (z2, e)]):
        np.testing.assert_allclose(kernels[i], signal.T @ delta / len(x), atol=1e-6)
        np.testing.assert_allclose(biases[i], delta.mean(axis=0), atol=1e-6)


class Made(nn.Module):
    """Three layers whose kernels are made of a parameter and of noise, or of statistics."""

    of: str

    @nn.compact
    def __call__(self, x):
        for i in range(3):
            if i:
                x = rlra_jax.Site(jnp.tanh)(x)
            if self.of == 'statistics':
                x = nn.SpectralNorm(nn.Dense(6, name=f'dense_{i}'))(x, update_stats=True)
            else:
                kernel = self.param(f'kernel_{i}', nn.initializers.lecun_normal(), (x.shape[1], 6))
                x = x @ nn.Dropout(0.3, deterministic=False)(kernel)
        return x


@pytest.mark.parametrize('of', ['statistics', 'noise'])
def test_what_kernels_are_made_of(of):
    """An error passes what is made of E: over random ones it is not backprop's, over E = W it is."""
    batch = {'image': jax.random.normal(jax.random.key(0), (16, 5)), 'label': jnp.arange(16) % 4}
    net, key = rlra_jax.regions(Made(of), batch), jax.random.key(3)
    kernels = ['dense_{}/kernel', 'kernel_{}'][of == 'noise'].format
    assert [region.weights for region in net] == [(), (kernels(1),), (kernels(2),)]
    learner, backprop = rlra_jax.learners.feedback_alignment(net), rlra_jax.learners.backprop(net)
    weights, state = learner.init(jax.random.key(1))
    assert set(weights['synapses']) == {kernels(1), kernels(2)}
    W = flatten(weights['params'])
    equal = {**weights, 'synapses': {path: W[path] for path in weights['synapses']}}
    start = backprop.init(jax.random.key(1), {'params': weights['params'], **state.collections})
    expected, random, came = (
        flatten(own.update(*given, batch, key)[0]['params'])
        for own, given in ((backprop, start), (learner, (weights, state)), (learner, (equal, state)))
    )
    for path, gradient in expected.items():
        np.testing.assert_allclose(came[path], gradient, atol=1e-6)
        assert np.allclose(random[path], gradient, atol=1e-6) == ('2' in path)


class Fourier(nn.Module):
    """Its last kernel is complex, made of two real parameters."""

    @nn.compact
    def __call__(self, x):
        real, imaginary = (self.param(name, nn.initializers.normal(), (6,)) for name in ('real', 'imaginary'))
        return jnp.fft.ifft(jnp.fft.fft(jnp.tanh(nn.Dense(6)(x))) * (real + 1j * imaginary)).real


def test_parameters_of_complex_kernels():
    net = rlra_jax.regions(Fourier(), batch := helpers.make_batch())
    learner, key = rlra_jax.learners.feedback_alignment(net), jax.random.key(0)
    weights, state = learner.init(key)
    params = learner.update(weights, state, batch, key)[0]['params']
    expected = helpers.gradient(Fourier(), {'params': weights['params']}, batch)
    for name in ('real', 'imaginary'):
        np.testing.assert_allclose(params[name], expected[name], atol=1e-6)
        assert jnp.abs(expected[name]).max() > 1e-3


class ComplexKernel(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = jnp.tanh(nn.Dense(5)(x))
        return jnp.abs(z @ self.param('kernel', nn.initializers.normal(1, jnp.complex64), (5, 4)))


def test_both_parts_of_a_complex_kernel_decay():
    """E - W shrinks by the factor 1 - rate * decay, in its imaginary part, too."""
    net = rlra_jax.regions(ComplexKernel(), batch := helpers.make_batch())
    step = rlra_jax.make_train_step(rlra_jax.learners.kolen_pollack(net, decay=0.5), optax.sgd(0.1))
    state = step.init(jax.random.key(0))
    apart = []
    for _ in range(3):
        apart.append(state.weights['synapses']['kernel'] - state.weights['params']['kernel'])
        state, _ = step.update(state, batch, jax.random.key(1))
    assert jnp.abs(apart[0].imag).min() > 1e-3
    np.testing.assert_allclose(apart[2], 0.95**2 * apart[0], rtol=1e-4, atol=1e-5)


def test_complex_kernels_have_no_weight_mirror():
    net = rlra_jax.regions(ComplexKernel(), helpers.make_batch())
    with pytest.raises(ValueError, match=r"weight mirror learns from noise must be real, or two .* got \['kernel'\]"):
        rlra_jax.learners.weight_mirror(net)


class Lifted(nn.Module):
    """Two blocks, each in a lifted transform."""

    lift: Any

    @nn.compact
    def __call__(self, x):
        for name in ('block_1', 'block_2'):
            x = self.lift(Block)(name=name)(x)
        return nn.Dense(4, name='readout')(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(6, name='dense')(x))


@pytest.mark.parametrize('name', ['feedback_alignment', 'weight_mirror', 'sign_symmetry'])
def test_remat_changes_nothing(name):
    """Kernels inside it are not taken for such as need no backward weights."""
    batch = helpers.make_batch()
    variables = dict(Lifted(lambda block: block).init(jax.random.key(0), batch['image']))
    plain, rematerialised = (
        helpers.run_learner(apart.make_learner(name, Lifted(lift), batch['image']), variables, batch)[0]
        for lift in (lambda block: block, nn.remat)
    )
    helpers.assert_updates_agree(plain, rematerialised)


class Looped(nn.Module):
    """Three layers in a loop."""

    layer: Any

    @nn.compact
    def __call__(self, x):
        z = jnp.tanh(nn.Dense(6)(x))
        loop = nn.scan(self.layer, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
        return nn.Dense(4)(loop(name='layers')(z, None)[0])


class Layer(nn.Module):
    @nn.compact
    def __call__(self, z, _):
        return jnp.tanh(nn.Dense(6)(z)), None


def test_remat_in_a_loop_computes_no_activity_over_other_weights():
    batch, found = helpers.make_batch(), []
    for layer in (Layer, nn.remat(Layer)):
        learner = rlra_jax.learners.feedback_alignment(rlra_jax.regions(Looped(layer), batch))
        weights, state = learner.init(jax.random.key(0))
        weights = jax.tree.map(lambda w: 3 * w, weights)  # so that tanh bends
        found.append(learner.update(weights, state, batch, jax.random.key(1))[0]['params'])
    helpers.assert_updates_agree(*found)


def test_grads_are_of_the_tree_of_the_parameters():
    model, x = rlra_jax.nn.MLP(widths=(6, 5), classes=4, phi=jnp.tanh), jax.random.normal(jax.random.key(0), (6, 8))
    variables, batch = flax.core.freeze(model.init(jax.random.key(1), x)), {'image': x, 'label': jnp.arange(6) % 4}
    learner = apart.make_learner('feedback_alignment', model, x)
    grads, *_ = learner.update(variables, learner.init(jax.random.key(2), variables, batch), batch, jax.random.key(3))
    assert jax.tree.structure(grads.params) == jax.tree.structure(variables['params'])


def test_boxed_parameters_learn_as_others_do():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, 'model'))
    model = nn.Sequential([nn.Dense(6, kernel_init=init), jnp.tanh, nn.Dense(4, kernel_init=init)])
    x = jax.random.normal(jax.random.key(0), (6, 8))
    boxed, batch = dict(model.init(jax.random.key(1), x)), {'image': x, 'label': jnp.arange(6) % 4}
    mesh = jax.make_mesh((1,), ('model',), axis_types=(jax.sharding.AxisType.Auto,))
    for name in ('feedback_alignment', 'weight_mirror'):
        learner = apart.make_learner(name, model, x)
        plain = helpers.run_learner(learner, nn.meta.unbox(boxed), batch)[0]
        with jax.set_mesh(mesh):
            came = helpers.run_learner(learner, boxed, batch)[0]
        assert jax.tree.structure(came.params) == jax.tree.structure(boxed['params'])
        for a, b in zip(jax.tree.leaves(came.params), jax.tree.leaves(plain.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
            assert np.any(b)


class ScannedBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(7, name='dense')(x)), None


class Scanned(nn.Module):
    """Three layers as one, whose weights are normalised."""

    @nn.compact
    def __call__(self, x):
        block = nn.scan(ScannedBlock, variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
        return nn.Dense(4, name='readout')(block(name='blocks')(x, None)[0])


class General(nn.Module):
    """A kernel of three axes."""

    @nn.compact
    def __call__(self, x):
        z = jnp.tanh(nn.DenseGeneral((2, 3), name='general')(jnp.tanh(nn.Dense(5, name='first')(x))))
        return nn.Dense(4, name='readout')(z.reshape(len(z), -1))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(7, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


STRANGE = {
    'scanned': (Scanned, {'blocks/dense/kernel', 'readout/kernel'}),
    'general': (General, {'general/kernel', 'readout/kernel'}),
    'weight norm': (
        lambda: nn.Sequential([nn.Dense(6), jnp.tanh, nn.WeightNorm(nn.Dense(6)), jnp.tanh, nn.Dense(4)]),
        {'layers_4/kernel', 'layers_2/layer_instance/kernel'},
    ),
    'nnx': (lambda: NNXNet(nnx.Rngs(0)), {'second/kernel'}),
    'transformer': (
        lambda: zoo.Encoder(depth=1),
        {'Dense_0/kernel', 'Dense_1/kernel', 'readout/kernel'}
        | {f'MultiHeadDotProductAttention_0/{part}/kernel' for part in ('key', 'out', 'query', 'value')},
    ),
}


def make_strange(name):
    make, passed = STRANGE[name]
    model, batch = make(), helpers.make_batch()
    if name == 'transformer':
        batch = {**batch, 'image': jax.random.normal(jax.random.key(0), (12, 4, 6, 2))}
    is_linen = isinstance(model, nn.Module)
    variables = dict(model.init(jax.random.key(1), batch['image'])) if is_linen else rlra_jax.nnx.variables(model)
    return model, variables, batch, passed


@pytest.mark.parametrize('name', helpers.quick(sorted(STRANGE), 'scanned', 'nnx'))
def test_backward_weights_of_any_operation(name):
    """E = W is backprop; other weights change the updates below them, and nothing above."""
    model, variables, batch, passed = make_strange(name)
    exact = helpers.gradient(model, variables, batch)
    same = apart.asymmetric(model, batch['image'], lambda paths: dict.fromkeys(paths, policies.transpose()))
    helpers.assert_updates_agree(exact, helpers.run_learner(same, variables, batch)[0].params, 1e-5)
    learner = apart.make_learner('feedback_alignment', model, batch['image'])
    assert set(learner.init(jax.random.key(2), variables, batch).synapses) == passed
    other, exact = (flatten(tree) for tree in (helpers.run_learner(learner, variables, batch)[0].params, exact))
    top = 'layers_4/kernel' if name == 'weight norm' else 'second/kernel' if name == 'nnx' else 'readout/kernel'
    np.testing.assert_allclose(other[top], exact[top], atol=1e-5)
    assert all(np.any(leaf) for leaf in other.values())
    assert helpers.cosine(other, exact) < 0.999


@pytest.mark.parametrize('name', helpers.quick(['sign_symmetry', 'kolen_pollack', 'weight_mirror'], 'weight_mirror'))
def test_a_transformer_learns_over_backward_weights(name):
    model, variables, batch, _ = make_strange('transformer')
    grads, _, aux = helpers.run_learner(apart.make_learner(name, model, batch['image']), variables, batch)
    assert np.isfinite(aux.loss)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads.params))


def test_weight_mirrors_do_not_look_into_loops():
    model, variables, batch, _ = make_strange('scanned')
    with pytest.raises(ValueError, match=r"outside loops; \['blocks/dense/kernel'\] are in none"):
        helpers.run_learner(apart.make_learner('weight_mirror', model, batch['image']), variables, batch)


def test_weights_that_start_at_zero_have_backward_weights_that_do_not():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, kernel_init=nn.initializers.zeros, name='readout')(jnp.tanh(nn.Dense(6)(x)))

    batch = helpers.make_batch()
    variables = dict(Net().init(jax.random.key(0), batch['image']))
    grads, _, _ = helpers.run_learner(apart.make_learner('feedback_alignment', Net(), batch['image']), variables, batch)
    assert np.any(grads.params['Dense_0']['kernel'])


@pytest.mark.parametrize('name', ['kolen_pollack', 'weight_mirror'])
def test_backward_weights_that_learn_start_at_zero_where_weights_do(name):
    """Of readout skips. Random ones would send errors that the network does not."""
    plain = rlra_jax.regions(rlra_jax.nn.MLP(widths=(6, 6), classes=4), helpers.make_batch())
    learner = rlra_jax.LEARNERS[name](rlra_jax.nn.with_readouts(plain, ['hidden_1']))
    weights, _ = jax.jit(learner.init)(jax.random.key(0))
    E = weights['synapses']
    assert not E['skips/hidden_1/kernel'].any()
    assert E['readout/kernel'].std() > 0.1 * weights['params']['readout']['kernel'].std()


def test_several_outputs_of_other_lengths_than_the_example():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = rlra_jax.Site(jnp.tanh)(nn.Dense(5)(x))
            return {'each': nn.Dense(3)(z), 'all': nn.Dense(2)(z.mean(axis=1))}

    def loss(outputs, batch):
        return (outputs['each'] ** 2).sum(axis=(1, 2)) + (outputs['all'] ** 2).sum(axis=1)

    net = rlra_jax.regions(Net(), {'image': jnp.ones((4, 5, 6))})
    learner = rlra_jax.LEARNERS['feedback_alignment'](net, loss=loss)
    weights, state = learner.init(jax.random.key(0))
    grads, _, aux = jax.jit(learner)(weights, state, {'image': jnp.ones((4, 3, 6))}, jax.random.key(1))
    assert aux.outputs['each'].shape == (4, 3, 3)
    assert all(map(np.any, jax.tree.leaves(grads['params'])))


@pytest.mark.parametrize('magnitude', ['uniform', 'batchwise', 'fixed'])
def test_sign_symmetry_shares_signs_alone(magnitude):
    W = jax.random.normal(jax.random.key(0), (3, 3, 5, 7)) * 4
    policy = policies.sign(magnitude)
    E = policy.init(jax.random.key(1), W) if policy.init else None
    B, again = (policy.use(E, W, jax.random.key(seed)) for seed in (2, 3))
    np.testing.assert_array_equal(jnp.sign(B), jnp.sign(W))
    assert bool((again == B).all()) == (magnitude != 'batchwise')
    rms = jnp.sqrt((B**2).mean())
    np.testing.assert_allclose(rms, np.sqrt(2 / (9 * (5 + 7))), rtol=1e-5 if magnitude == 'uniform' else 0.2)


def test_kolen_pollack_difference_decays_as_predicted():
    """E - W shrinks by 1 - rate * decay a step, for plain SGD on both sides."""
    model, variables, batch = helpers.make_mlp(depth=3)
    rate, decay, steps = 0.2, 0.5, 10
    learner = apart.make_learner('kolen_pollack', model, batch['image'], decay=decay)
    step = apart.make_train_step(learner, optax.sgd(rate), optax.sgd(rate))
    update = jax.jit(step.update)
    state = step.init(jax.random.key(0), variables, batch)

    def difference(state):
        W = flax.traverse_util.flatten_dict(state.variables['params'], sep='/')
        return {path: E - W[path] for path, E in state.weights['synapses'].items()}

    before = difference(state)
    for i in range(steps):
        state, _ = update(state, batch, jax.random.key(i))
    factor = (1 - rate * decay) ** steps
    for path, after in difference(state).items():
        np.testing.assert_allclose(after, factor * before[path], atol=1e-5)
        assert jnp.abs(before[path]).max() > 0.1
