"""What every convolutional model must do, on small instances; their published sizes are traced, not computed."""

import functools

import apart
import chex
import flax
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from apart import loss_gradient

from rlra_jax.nn import ACTIVATIONS, CNN, FastResNet, PResNet18, ResNet18, ResNet50, ViT
from rlra_jax.nn.convolve import convolve
from rlra_jax.nn.layers import convolution, normalise

KEY = jax.random.key(1, impl='rbg')  # compiles several times faster than threefry
FAST = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}  # to compile, not to run
SMALL = {
    'cnn': functools.partial(CNN, widths=(4, 6), strides=(1, 2)),
    'resnet18': functools.partial(ResNet18, width=4, blocks=(1, 1)),
    'resnet18_gap3': functools.partial(ResNet18, width=4, blocks=(1, 1), kernels=(3, 3, 3), norm='group', phi=jnp.tanh),
    'resnet50': functools.partial(ResNet50, width=2, blocks=(1, 1), stem='imagenet'),
    'presnet18': functools.partial(PResNet18, width=4, blocks=(1, 1)),
}


def make(name, **options):
    """(model, batch, train_kwargs)."""
    image = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    batch = {'image': image, 'label': jnp.array([0, 1, 2, 1])}
    return SMALL[name](classes=3, **options), batch, None if name == 'cnn' else {'train': True}


@pytest.mark.parametrize('name', helpers.quick(SMALL, 'cnn'))
def test_is_cut_and_every_region_gets_an_update(name):
    model, batch, train_kwargs = make(name)
    reached = apart.check_cut(model, batch['image'], train_kwargs=train_kwargs)
    regions = [region.name for region in apart.sites(model, batch['image'], train_kwargs=train_kwargs)]
    assert {region for (region,) in reached.values()} == set(regions)
    learner = apart.rec_lra(model, batch['image'], rule='fixed', train_kwargs=train_kwargs)

    @functools.partial(jax.jit, compiler_options=FAST)
    def step(key):
        variables = dict(model.init(key, batch['image']))
        feedback = learner.init(key, variables, batch)
        return variables, *learner.update(variables, feedback, batch, key)

    variables, grads, _, aux = step(KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes({'params': grads.params, **aux.variables}, variables)
    moved = jax.tree.map(lambda update: bool(np.abs(update).max() > 0), grads.params)
    assert all(jax.tree.leaves(moved)), moved


@jax.custom_jvp
def smooth_sign(h):
    """sign, with the slope of tanh."""
    return jnp.sign(h)


smooth_sign.defjvp(lambda primals, tangents: (jnp.sign(*primals), (1 - jnp.tanh(*primals) ** 2) * tangents[0]))


@pytest.mark.full
@pytest.mark.parametrize(('phi', 'smooth'), [('relu', jax.nn.relu), ('sign', smooth_sign)])
def test_mirrors_give_every_region_of_a_resnet_the_gradient(phi, smooth):
    """Backprop's; for sign units, of a network whose slopes are those of tanh."""
    model = ResNet18(blocks=(1, 1), width=8, classes=4, phi=ACTIVATIONS[phi])
    batch = {**helpers.make_batch(32), 'image': jax.random.normal(jax.random.key(4), (32, 8, 8, 3))}
    options = {'surrogate': jnp.tanh} if phi == 'sign' else {}
    train = {'train_kwargs': {'train': True}}
    learner = apart.rec_lra(
        model,
        batch['image'],
        wiring='reverse',
        kind='pooled',
        normalise=True,
        synapse_std=1e-4,
        **train,
        **options,
    )
    step = apart.make_train_step(learner, optax.sgd(0.0), optax.sgd(0.5))
    variables = dict(model.init(jax.random.key(0), batch['image']))
    state = step.init(jax.random.key(1), variables, batch)
    keys = jax.random.split(jax.random.key(2), 100)
    learn = jax.jit(lambda state: jax.lax.scan(lambda s, key: (step.update(s, batch, key)[0], ()), state, keys)[0])
    feedback = apart.feedback_of(learn(state))
    ours = learner.update(variables, feedback, batch, jax.random.key(3))[0].params
    exact, _ = loss_gradient(model.clone(phi=smooth), variables, batch, jax.random.key(3), **train)
    owner = apart.check_cut(model, batch['image'], variables=variables, **train)
    ours, exact = (flax.traverse_util.flatten_dict(tree, sep='/') for tree in (ours, exact))
    for region in dict.fromkeys(name for names in owner.values() for name in names):
        own = [path for path, names in owner.items() if region in names]
        assert helpers.cosine(*([tree[path] for path in own] for tree in (ours, exact))) > 0.99, region


def test_regions_are_grouped_by_block():
    def regions(model, size):
        shape = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        return {region.name: region.shape[1:] for region in apart.sites(model, shape)}

    thin = regions(ResNet18(width=16), 32)
    blocks = [f'stage_{s}/block_{b}' for s in (1, 2, 3, 4) for b in (1, 2)]
    assert list(thin) == ['stem', *(f'{block}/act_{depth}' for block in blocks for depth in (1, 2)), 'output']
    assert thin['stage_1/block_2/act_2'] == (32, 32, 16)
    assert thin['stage_4/block_1/act_1'] == (4, 4, 128)
    deep = regions(ResNet50(stem='imagenet', classes=1000), 224)
    assert len(deep) == 1 + 3 * (3 + 4 + 6 + 3) + 1
    assert deep['stem'] == (112, 112, 64)
    assert deep['stage_1/block_1/act_1'] == (56, 56, 64)
    assert deep['stage_2/block_1/act_1'] == (56, 56, 128)  # the 3 x 3 convolution takes the stride
    assert deep['stage_2/block_1/act_2'] == (28, 28, 128)
    assert deep['stage_4/block_3/act_3'] == (7, 7, 2048)


@pytest.mark.parametrize(
    ('model', 'size', 'count'),
    [
        (ResNet18(), 32, 11_173_962),  # widely used for CIFAR-10
        (ResNet18(stem='imagenet', classes=1000), 224, 11_689_512),  # torchvision's
        (ResNet50(stem='imagenet', classes=1000), 224, 25_557_032),  # torchvision's
    ],
)
def test_published_parameter_counts(model, size, count):
    variables = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, size, size, 3))), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) == count


def test_h_of_a_blocks_output_is_the_value_after_the_sum():
    """With its last normalisation scaled to zero a block's h_g is its input: z of the block before it."""
    model, batch, _ = make('resnet18')
    variables = jax.jit(model.init)(KEY, batch['image'])
    block = variables['params']['stage_1']['block_1']
    block['norm_2'] = {'scale': jnp.zeros(4), 'bias': jnp.zeros(4)}
    h = apart.forward(model, variables, batch['image']).h
    np.testing.assert_allclose(h['stage_1/block_1/act_2'], jax.nn.relu(h['stem']), atol=1e-6)
    assert np.abs(h['stage_1/block_1/act_1']).max() > 0


@pytest.mark.parametrize('name', ['cnn', 'resnet18', 'presnet18'])
def test_computes_in_bfloat16_with_float32_parameters_and_logits(name):
    model, batch, train_kwargs = make(name, dtype='bfloat16')
    regions = apart.sites(model, batch['image'], train_kwargs=train_kwargs)
    assert {region.dtype.name for region in regions[:-1]} == {'bfloat16'}
    assert regions[-1].dtype == jnp.float32
    variables = jax.eval_shape(model.init, KEY, batch['image'])
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


def test_bfloat16_stays_near_float32():
    (model, batch, _), (exact, _, _) = make('resnet18', dtype='bfloat16'), make('resnet18')

    @jax.jit
    def logits(key):
        variables = exact.init(key, batch['image'])
        return [m.apply(variables, batch['image']) for m in (model, exact)]

    rounded, expected = logits(KEY)
    assert np.any(rounded != expected)
    np.testing.assert_allclose(rounded, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize(('kernel', 'stride', 'size'), [(3, 1, 6), (3, 2, 6), (3, 2, 7), (1, 2, 6), (7, 2, 8)])
def test_convolutions_and_their_local_updates_match_numpy(kernel, stride, size, backend, monkeypatch):
    """Eq. 5 of a convolution: at each tap, the sum of what lay under it times the error."""
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    rng = np.random.default_rng(0)
    z, w = rng.normal(size=(2, size, size, 3)), rng.normal(size=(kernel, kernel, 3, 4))
    half = kernel // 2
    padded = np.pad(z, ((0, 0), (half, half), (half, half), (0, 0)))
    places = range(0, size + 2 * half - kernel + 1, stride)
    h = np.zeros((2, len(places), len(places), 4))
    e = rng.normal(size=h.shape)
    dw = np.zeros_like(w)
    for i, row in enumerate(places):
        for j, column in enumerate(places):
            patch = padded[:, row : row + kernel, column : column + kernel]
            h[:, i, j] = np.einsum('bklc,klcd->bd', patch, w)
            dw += np.einsum('bklc,bd->klcd', patch, e[:, i, j])
    out, pull = jax.vjp(lambda w: convolve(jnp.float32(z), w, (stride, stride), ((half, half),) * 2), jnp.float32(w))
    np.testing.assert_allclose(out, h, atol=1e-4)
    np.testing.assert_allclose(pull(jnp.float32(e))[0], dw, atol=1e-4)


@pytest.mark.parametrize('channels', [3, 40])
@pytest.mark.parametrize('taps', [(4,), (3, 2), (2, 3, 3), (1, 1)])
def test_convolution_of_any_axes_is_xlas(taps, channels):
    """Of few channels and of many; stride 1 and 2 on the first axis."""
    rng, axes = np.random.default_rng(0), len(taps)
    z, w = jnp.float32(rng.normal(size=(2, *(7, 6, 5)[:axes], 3))), jnp.float32(rng.normal(size=(*taps, 3, channels)))
    letters = 'HWD'[:axes]
    numbers = (f'N{letters}C', f'{letters}IO', f'N{letters}C')
    for strides in ((1, 2, 1)[:axes], (2, 1, 2)[:axes]):
        padding = ((1, 0), (0, 2), (-1, 1))[:axes]
        expected = jax.lax.conv_general_dilated(z, w, strides, padding, dimension_numbers=numbers)
        np.testing.assert_allclose(convolve(z, w, strides, padding), expected, atol=1e-5)


@pytest.mark.parametrize('name', SMALL)
def test_learners_with_backward_weights_take_it(name):
    """Its kernels belong to operations that `backward.py` knows."""
    model, batch, train_kwargs = make(name)
    learner = apart.make_learner('weight_mirror', model, batch['image'], train_kwargs=train_kwargs)
    variables = jax.eval_shape(model.init, KEY, batch['image'])
    feedback = jax.eval_shape(learner.init, KEY, variables, batch)
    kernels = [path for path, leaf in jax.tree.leaves_with_path(variables['params']) if leaf.ndim > 1]
    assert len(feedback.synapses) == len(kernels) - 1  # the first sees the data alone


@pytest.mark.parametrize('norm', ['group', 'layer'])
def test_group_and_layer_normalisation_treat_examples_alone(norm):
    model, batch, _ = make('cnn', norm=norm)
    variables = model.init(KEY, batch['image'])
    alone = model.apply(variables, batch['image'][1:2])
    np.testing.assert_allclose(model.apply(variables, batch['image'])[1:2], alone, atol=1e-5)


def test_layer_normalisation_matches_numpy():
    h = np.random.default_rng(0).normal(2.0, 3.0, (2, 4, 4, 8)).astype(np.float32)

    class Norm(nn.Module):
        kind: str

        @nn.compact
        def __call__(self, x):
            return normalise(x, kind=self.kind, name='norm')

    out, _ = Norm('layer').init_with_output(jax.random.key(0), h)
    mean, std = h.mean(axis=(1, 2, 3), keepdims=True), h.std(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(out, (h - mean) / std, atol=1e-4)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (CNN(widths=(4,), strides=(1, 2)), r'strides must be 1, one a width; got \(1, 2\)'),
        (CNN(norm='batch'), "norm must be 'layer' or 'group'; got 'batch'"),
        (CNN(widths=(0,), strides=(1,)), 'each of widths must be a whole number of at least 1; got 0'),
        (CNN(widths=(), strides=()), 'number of widths must be a whole number of at least 1; got 0'),
        (FastResNet(widths=()), 'number of widths must be a whole number of at least 1; got 0'),
        (ResNet18(norm='instance'), "unknown normalisation 'instance'; known: batch, group, layer"),
        (ResNet18(stem='mnist'), "unknown stem 'mnist'; known: cifar, imagenet"),
        (ResNet18(kernels=()), 'number of kernels must be'),
        (ResNet18(width=0), 'width must be a whole number'),
        (PResNet18(blocks=(1, 1, 1, 1, 1)), r'stride 2 of stage_5/block_1/conv_1 does not divide maps of 1 x 1'),
    ],
)
def test_bad_options(model, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda key: model.init(key, jnp.zeros((2, 8, 8, 3))), jax.random.key(0))


@pytest.mark.parametrize('model', [CNN(strides=(1,) * 6), ResNet18(), FastResNet(), ViT(patch=4)])
def test_images_without_an_axis_of_channels(model):
    with pytest.raises(ValueError, match=r'images must be of the shape \[B, H, W, C\]; got \(2, 32, 32\)'):
        jax.eval_shape(lambda key: model.init(key, jnp.zeros((2, 32, 32))), KEY)


def test_groups_of_an_odd_number_of_channels_are_all_of_them():
    h = jnp.arange(10.0).reshape(2, 1, 1, 5)

    class Norm(nn.Module):
        kind: str

        @nn.compact
        def __call__(self, x):
            return normalise(x, kind=self.kind, name='norm')

    group, layer = (Norm(kind).init_with_output(KEY, h)[0] for kind in ('group', 'layer'))
    np.testing.assert_allclose(group, layer, rtol=1e-5)
    assert np.ptp(group) > 1


@pytest.mark.parametrize('kernel', [1, 2, 3, 4])
def test_stride_1_keeps_the_size(kernel):
    x = jnp.zeros((1, 6, 5, 2))
    assert jax.eval_shape(convolution(3, kernel, 1).init_with_output, KEY, x)[0].shape == (1, 6, 5, 3)


@pytest.mark.parametrize('options', [{'kernel_dilation': 2}, {'feature_group_count': 2}])
def test_convolutions_with_dilation_or_groups_are_refused(options):
    with pytest.raises(ValueError, match='a convolution must be one without dilation and groups'):
        convolution(4, 3, 1, **options).init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))
