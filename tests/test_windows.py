"""Receptive fields off a trace, against those of Jacobians."""

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlra_jax
from rlra_jax import forward_graph
from rlra_jax.convolve import convolve
from rlra_jax.types import Window
from rlra_jax.windows import EVERYWHERE, join

X = jax.ShapeDtypeStruct((2, 9, 8, 4), jnp.float32)
SAME = (0, 0, 1)


def module(make):
    """A function of maps from a linen module, its weights Gaussian."""

    def run(x):
        model = make()
        shapes = jax.eval_shape(model.init, jax.random.key(0), x)
        return model.apply(helpers.filled(shapes, std=1.0), x, mutable=['batch_stats'])[0]

    return run


def conv(*args, **kwargs):
    return module(lambda: nn.Conv(4, *args, **kwargs))


def patches(x):
    return convolve(x, jnp.ones((3, 2, 4, 4)), (2, 1), ((1, 1), (0, 1)))


def residual(x):
    return conv((3, 3), strides=2)(x) + conv((1, 1), strides=2)(x)


def squeezed(x):
    return conv((3, 3))(x) * nn.sigmoid(x.mean(axis=(1, 2), keepdims=True))


def gated(x):
    one, other = jnp.split(conv((3, 1))(x), 2, axis=-1)
    return jnp.concatenate([one * other, jnp.where(one > 0, other, 0.0)], axis=-1)


MOVES = [
    (conv((3, 3)), ((-1, 1, 1), (-1, 1, 1))),
    (conv((5, 3), padding='VALID'), ((0, 4, 1), (0, 2, 1))),
    (conv((3, 3), strides=2), ((-1, 1, 2), (0, 2, 2))),
    (conv((3, 3), strides=2, padding=1), ((-1, 1, 2), (-1, 1, 2))),
    (conv((3, 3), kernel_dilation=2), ((-2, 2, 1), (-2, 2, 1))),
    (conv((3, 3), feature_group_count=4), ((-1, 1, 1), (-1, 1, 1))),
    (conv((1, 1), strides=2), ((0, 0, 2), (0, 0, 2))),
    (patches, ((-1, 1, 2), (0, 1, 1))),
    (lambda x: conv((3, 3))(nn.max_pool(x, (2, 2), (2, 2))), ((-2, 3, 2), (-2, 3, 2))),
    (lambda x: nn.avg_pool(conv((3, 3))(x), (3, 2), (2, 1), 'SAME'), ((-2, 2, 2), (-1, 2, 1))),
    (lambda x: conv((3, 3))(conv((3, 3), strides=2)(x)), ((-3, 3, 2), (-2, 4, 2))),
    (residual, ((-1, 1, 2), (0, 2, 2))),
    (lambda x: x + conv((3, 1))(x), ((-1, 1, 1), SAME)),
    (gated, ((-1, 1, 1), SAME)),
    (lambda x: x[:, 1::2, ::3], ((1, 1, 2), (0, 0, 3))),
    (module(lambda: nn.Dense(4)), (SAME, SAME)),
]
STATISTICS = [
    (module(lambda: nn.BatchNorm(use_running_average=False)), (SAME, SAME)),
    (module(lambda: nn.GroupNorm(num_groups=2)), (SAME, SAME)),
    (module(nn.LayerNorm), (SAME, SAME)),
    (squeezed, ((-1, 1, 1), (-1, 1, 1))),
    (lambda x: x.mean(axis=(1, 2)), EVERYWHERE),
    (lambda x: jnp.roll(x, 1, axis=1), None),
    (lambda x: jnp.cumsum(x, axis=1), None),
    (lambda x: x + x[:, ::-1], None),
    (lambda x: jnp.swapaxes(x, 1, 2), None),
    (lambda x: x.reshape(2, -1), None),
    (lambda x: jnp.repeat(x, 2, axis=1), None),
    (lambda x: jnp.einsum('bhwc,hk->bkwc', x, jnp.ones((9, 9))), None),
]


@pytest.mark.parametrize(('function', 'expected'), [*MOVES, *STATISTICS])
def test_windows_of_operations(function, expected):
    _, (fed,) = forward_graph.trace(lambda x: [function(forward_graph.tag('a', x))], X)
    assert fed['a'].seen == expected


def test_joined_windows():
    narrow, wide, strided = ((Window(*axis),) for axis in ((0, 1, 1), (-1, 0, 1), (0, 1, 2)))
    assert join(narrow, wide) == ((-1, 1, 1),)
    assert join(narrow, strided) is None
    for each in (narrow, None, EVERYWHERE):
        assert join(each, EVERYWHERE) == join(EVERYWHERE, each) == each
        assert each == EVERYWHERE or join(each, None) is join(None, each) is None


@pytest.mark.parametrize(('function', 'expected'), MOVES)
def test_jacobians_reach_the_ends_of_the_windows_and_no_further(function, expected):
    x = jax.random.normal(jax.random.key(0), (1, *X.shape[1:]))
    jacobian = jax.jit(jax.jacobian(lambda x: function(x).sum(axis=-1)))(x)  # [1, H', W', 1, H, W, C]
    for axis, (first, last, stride) in enumerate(expected):
        reached = np.moveaxis(np.abs(jacobian[0, ..., 0, :, :, :]).sum(axis=-1), [axis, 2 + axis], [0, 1])
        offsets = {q - stride * p for p, q, *_ in np.argwhere(reached > 0)}
        assert (min(offsets), max(offsets)) == (first, last)


class Net(nn.Module):
    """Kernels of 5, 3 with stride 2 and 1 with stride 2, and a convolution over a sequence."""

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='one')(nn.Conv(3, (5, 5), name='conv_1')(x))
        z = rlra_jax.Site(jnp.tanh, name='two')(nn.Conv(4, (5, 3), name='conv_2')(z))
        z = rlra_jax.Site(jnp.tanh, name='three')(nn.Conv(5, (3, 3), strides=2, padding=1, name='conv_3')(z))
        z = rlra_jax.Site(jnp.tanh, name='four')(nn.Conv(6, (1, 1), strides=2, name='conv_4')(z))
        z = rlra_jax.Site(jnp.tanh, name='five')(nn.Conv(7, (3,), name='conv_5')(z.reshape(len(z), -1, 6)))
        z = rlra_jax.Site(jnp.tanh, name='six')(nn.Conv(7, (3,), name='conv_6')(z))
        z = rlra_jax.Site(jnp.tanh, name='seven')(nn.Dense(3, name='dense')(z))
        return nn.Dense(4)(z.mean(axis=1))


def test_synapses_have_the_taps_of_the_forward_kernels():
    """So Kolen and Pollack's rule learns over every edge what the forward kernel does, and nothing else."""
    model, batch = Net(), {'image': jax.random.normal(jax.random.key(0), (3, 8, 8, 2)), 'label': jnp.arange(3)}
    variables = helpers.filled(jax.eval_shape(model.init, jax.random.key(1), batch['image']), std=0.5)
    wiring = rlra_jax.wire_reverse(rlra_jax.sites(model, batch['image']), rule='kp')
    feedback = rlra_jax.init_feedback(jax.random.key(2), model, wiring, variables, batch['image'])
    update = jax.jit(rlra_jax.update_fn(model, wiring, normalise=True))
    grads = update(variables, feedback, batch, jax.random.key(3))[0]
    learnt = {name: dE for level in grads.synapses for name, dE in level.items()}
    edges = {'two->one': 'conv_2', 'three->two': 'conv_3', 'four->three': 'conv_4', 'six->five': 'conv_6'}
    for name, layer in {**edges, 'seven->six': 'dense'}.items():
        dW = np.swapaxes(grads.params[layer]['kernel'], -1, -2)
        assert np.any(dW)
        np.testing.assert_allclose(learnt[name], dW, atol=1e-5 * np.abs(dW).max(), err_msg=name)
    kinds = {edge.name: edge.kind for edge in wiring.edges}
    assert kinds['two->one'] == 'conv_transpose[-2:2:1, -1:1:1]'
    assert kinds['six->five'] == 'conv_transpose'
    assert kinds['seven->six'] == 'token'
    assert kinds['five->four'] == 'dense'


def test_of_wide_windows_a_wiring_takes_the_middle():
    """At least 11 taps, and as many as leave no position out where the stride is wide."""
    shapes = {'one': (2, 64, 64, 3), 'two': (2, 64, 64, 4), 'three': (2, 8, 8, 4)}
    seen = {'two': (Window(-6, 7, 1), Window(-5, 5, 1)), 'three': (Window(-20, 20, 8), Window(-3, 4, 8))}
    below = {'two': 'one', 'three': 'two'}
    regions = {
        name: rlra_jax.Region(name, shape, jnp.float32, (below.get(name, ''),), windows=(seen.get(name),))
        for name, shape in shapes.items()
    }
    kinds = [rlra_jax.kind_by_shape(regions[name], regions[below[name]]) for name in seen]
    assert kinds == ['conv_transpose[-5:5:1, -5:5:1]', 'conv_transpose[-7:7:8, -3:4:8]']
