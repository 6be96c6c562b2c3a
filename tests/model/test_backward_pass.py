import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from other_weights import assert_near, like, passing

from rlra_jax.model.backward_pass import BackwardPass


def pulled(function, params, z, E, cotangent):
    back = passing(function, params, z)
    return back.pull(back.weights(E), cotangent)['z']


# Paths by hand: (params, z) -> out, and (E, params, z, dz) -> d out, where E moves signals and params made activities.


def mlp(p, z):
    return jnp.tanh(z @ p['low'] + p['bias']) @ p['high']


def mlp_tangent(E, p, z, dz):
    return ((1 - jnp.tanh(z @ p['low'] + p['bias']) ** 2) * (dz @ E['low'])) @ E['high']


def guarded(p, z):
    """A division that a condition guards; what is not taken has an infinite derivative."""
    h = z @ p['low']
    return lax.cond((h**2).sum() > 0, lambda h: h / jnp.sqrt((h**2).sum()), lambda h: h, h) @ p['high']


def test_a_branch_that_is_not_taken_sends_nothing():
    shapes = {'low': (3, 4), 'high': (4, 2)}
    params = {name: jnp.zeros(shape) if name == 'low' else jnp.ones(shape) for name, shape in shapes.items()}
    E = {name: jnp.ones(shape) for name, shape in shapes.items()}
    sent = pulled(guarded, params, jnp.ones((5, 3)), E, jnp.ones((5, 2)))
    np.testing.assert_allclose(sent, jnp.ones((5, 2)) @ E['high'].T @ E['low'].T)


def standardise(h):
    return (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-3)


def batch_norm(p, z):
    return standardise(z @ p['kernel']) * p['scale'] + p['bias']


def batch_norm_tangent(E, p, z, dz):
    return jax.jvp(standardise, (z @ p['kernel'],), (dz @ E['kernel'],))[1] * E['scale']


def attend(q, k, v):
    return nn.softmax(q @ k.swapaxes(1, 2)) @ v


def attention(p, z):
    return attend(z @ p['q'], z @ p['k'], z @ p['v']) @ p['o'] + z


def attention_tangent(E, p, z, dz):
    kinds = 'qkv'
    made, moves = (tuple(x @ of[kind] for kind in kinds) for x, of in ((z, p), (dz, E)))
    return jax.jvp(attend, made, moves)[1] @ E['o'] + dz


def gated(p, z):
    return (nn.silu(z @ p['gate']) * (z @ p['up'])) @ p['down']


def gated_tangent(E, p, z, dz):
    made, moves = ((x @ of['gate'], x @ of['up']) for x, of in ((z, p), (dz, E)))
    return jax.jvp(lambda g, u: nn.silu(g) * u, made, moves)[1] @ E['down']


def recurrent(p, z):
    """A scan over time whose state starts from the first step; weights are the same at each."""
    state, _ = lax.scan(lambda s, x: (jnp.tanh(s @ p['own'] + x @ p['in']), None), z[:, 0], z.swapaxes(0, 1)[1:])
    return state


def recurrent_tangent(E, p, z, dz):
    state, move = z[:, 0], dz[:, 0]
    for x, dx in zip(z.swapaxes(0, 1)[1:], dz.swapaxes(0, 1)[1:], strict=True):
        state = jnp.tanh(state @ p['own'] + x @ p['in'])
        move = (1 - state**2) * (move @ E['own'] + dx @ E['in'])
    return move


def pooled(p, z):
    return jnp.maximum(z @ p['one'], z @ p['other'])


def pooled_tangent(E, p, z, dz):
    return jnp.where(z @ p['one'] > z @ p['other'], dz @ E['one'], dz @ E['other'])


def weight_normed(p, z):
    """What is made of parameters alone is made of E."""
    return z @ (p['scale'] * p['kernel'] / jnp.linalg.norm(p['kernel'], axis=0))


def weight_normed_tangent(E, p, z, dz):
    return weight_normed(E, dz)


def layers(p, z):
    """A scan over layers: the weights are stacked."""
    return lax.scan(lambda z, W: (z + jnp.tanh(z @ W), None), z, p['stack'])[0]


def layers_tangent(E, p, z, dz):
    for W, own in zip(p['stack'], E['stack'], strict=True):
        h = z @ W
        z, dz = z + jnp.tanh(h), dz + (1 - jnp.tanh(h) ** 2) * (dz @ own)
    return dz


def chosen(p, z):
    """A condition on an activity."""
    return lax.cond(z.sum() > 0, lambda: z @ p['yes'], lambda: jnp.sin(z @ p['no']))


def chosen_tangent(E, p, z, dz):
    return jnp.where(z.sum() > 0, dz @ E['yes'], jnp.cos(z @ p['no']) * (dz @ E['no']))


def square(*shape):
    return jnp.zeros(shape)


BY_HAND = {
    'mlp': (mlp, mlp_tangent, {'low': square(5, 6), 'bias': square(6), 'high': square(6, 3)}, (4, 5)),
    'batch_norm': (
        batch_norm,
        batch_norm_tangent,
        {'kernel': square(5, 3), 'scale': square(3), 'bias': square(3)},
        (4, 5),
    ),
    'attention': (attention, attention_tangent, {kind: square(5, 5) for kind in 'qkvo'}, (2, 3, 5)),
    'gated': (gated, gated_tangent, {'gate': square(5, 6), 'up': square(5, 6), 'down': square(6, 3)}, (4, 5)),
    'recurrent': (recurrent, recurrent_tangent, {'own': square(5, 5), 'in': square(5, 5)}, (2, 4, 5)),
    'pooled': (pooled, pooled_tangent, {'one': square(5, 3), 'other': square(5, 3)}, (4, 5)),
    'weight_normed': (weight_normed, weight_normed_tangent, {'kernel': square(5, 3), 'scale': square(3)}, (4, 5)),
    'layers': (layers, layers_tangent, {'stack': square(3, 5, 5)}, (4, 5)),
    'chosen': (chosen, chosen_tangent, {'yes': square(5, 3), 'no': square(5, 3)}, (4, 5)),
}


CALLS = {'plain': lambda f: f, 'jit': jax.jit, 'remat': jax.checkpoint}


@pytest.mark.parametrize(
    ('name', 'call'), [*((name, 'plain') for name in BY_HAND), ('mlp', 'jit'), ('layers', 'remat')]
)
def test_signals_meet_other_weights_and_activities_as_they_passed(name, call):
    function, tangent, shapes, shape = BY_HAND[name]
    params, E, z = like(shapes, 0), like(shapes, 1), jax.random.normal(jax.random.key(2), shape)
    cotangent = jax.random.normal(jax.random.key(3), jax.eval_shape(function, params, z).shape)

    @jax.jit
    def run(params, E, z, cotangent):
        def by_hand(E):
            return jax.linear_transpose(lambda dz: tangent(E, params, z, dz), z)(cotangent)[0]

        out, pull = jax.vjp(lambda z: function(params, z), z)
        back = passing(CALLS[call](function), params, z)
        came = back.out, back.pull(back.weights(E), cotangent)['z']
        return came, (out, by_hand(E)), (by_hand(params), pull(cotangent)[0])

    came, expected, (own, true) = run(params, E, z, cotangent)
    assert_near(own, true)  # the oracle's own derivative is right
    assert float(jnp.abs(expected[1] - true).max()) > 0.1 * float(jnp.abs(true).max())
    assert_near(came[0], expected[0])
    assert_near(came[1], expected[1])


def linear(p, z):
    """Every kind of linear operation, each on what does not depend on the parameters."""
    normed = (z - z.mean(-1, keepdims=True)) / (z.std(-1, keepdims=True) + 0.1)
    pooled = nn.max_pool(z, (2,), (1,), 'SAME')
    convolved = lax.conv_general_dilated(
        nn.relu(pooled), p['conv'], (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')
    )
    return convolved + normed * p['scale'] @ p['dense'] + jnp.take(nn.softmax(z) @ p['dense'], jnp.array([1, 0, 2]), 1)


def test_reads_no_parameter_on_the_way_back():
    """Where activities do not depend on them, parameters may be anything."""
    shapes = {'conv': square(3, 5, 4), 'scale': square(5), 'dense': square(5, 4)}
    params, E, z = like(shapes, 0), like(shapes, 1), jax.random.normal(jax.random.key(2), (2, 3, 5))
    poison = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    cotangent = jax.random.normal(jax.random.key(3), (2, 3, 4))
    found = pulled(linear, poison, z, E, cotangent)
    assert jnp.isfinite(found).all()
    np.testing.assert_array_equal(found, pulled(linear, params, z, E, cotangent))


def test_is_linear_in_the_cotangent_and_zero_where_nothing_can_pass():
    def function(params, rest, _):
        counted = rest['count'] + jnp.argmax(rest['hidden'], axis=1)
        return rest['z'] @ params + lax.stop_gradient(rest['frozen']) * counted[:, None], ()

    rest = {
        'z': jnp.ones((2, 3)),
        'frozen': jnp.ones((2, 4)),
        'hidden': jnp.ones((2, 5)),
        'count': jnp.arange(2),
        'key': jax.random.key(0),
    }
    back = BackwardPass(function, like(square(3, 4), 0), rest, ())
    weights, g = back.weights(like(square(3, 4), 1)), jax.random.normal(jax.random.key(2), (2, 4))
    found = back.pull(weights, g)
    assert not any(jnp.any(found[name]) for name in ('frozen', 'hidden', 'count', 'key'))
    assert_near(back.pull(weights, 3 * g)['z'], 3 * found['z'])
