"""Readout skips and overlap: what straight error pathways then are, beside autodiff and beside NumPy."""

import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import PHI

import rlra_jax
from benchmarks.hlo import Program
from rlra_jax import Carries, KolenPollack, Mirror, Options
from rlra_jax.model.capture import forward
from rlra_jax.nn import ACTIVATIONS, with_readouts
from rlra_jax.paths import flatten
from rlra_jax.recursion.update import look, recur

KEY = jax.random.key(0)
PARTS = 'kernel', 'bias'
EQUAL = KolenPollack(equal=True)
IMAGES = {'image': jax.random.normal(jax.random.key(1), (6, 8, 8, 2)), 'label': jnp.arange(6) % 4}


class Blocks(nn.Module):
    """Residual blocks of two layers."""

    count: int = 3
    phi: str = 'tanh'

    @nn.compact
    def __call__(self, x):
        phi, z = ACTIVATIONS[self.phi], x
        for b in range(self.count):
            inner = rlra_jax.Site(phi, name=f'in_{b}')(nn.Dense(5, name=f'dense_in_{b}')(z))
            h = nn.Dense(6, name=f'dense_out_{b}')(inner)
            z = rlra_jax.Site(phi, name=f'out_{b}')(h + z if b else h)
        return nn.Dense(4, name='readout')(z)


def net_of(count=3, phi='tanh', size=12):
    batch = helpers.make_batch(size)
    net = rlra_jax.regions(Blocks(count, phi), batch)
    return with_readouts(net, [f'out_{b}' for b in range(count - 1)]), batch


wire = functools.partial(rlra_jax.wire_modules, block=lambda name: name.rpartition('_')[2], rule=EQUAL)


def edges_of(wiring):
    return {(edge.name, edge.carries.value) for edge in wiring.edges}


def test_blocks_hear_the_readout_the_rest_and_the_block_above():
    net, _ = net_of()
    inside = {(f'out_{b}->in_{b}', 'error') for b in range(3)}
    straight = {(f'output->out_{b}', 'error') for b in range(3)}
    assert edges_of(wire(net)) == inside | straight
    assert {edge.kind for edge in wire(net).edges} == {rlra_jax.Path()}
    rest = {(f'output=>out_{b}', 'rest') for b in range(2)}
    assert edges_of(wire(net, rest=Mirror())) == inside | straight | rest
    over = {(f'{source}->out_{b}', 'own') for b in range(2) for source in (f'in_{b + 1}', f'out_{b + 1}')}
    assert edges_of(wire(net, overlap=1)) == inside | straight | over
    both = wire(net, overlap=1, rest=Mirror())
    heard = {('output=>out_1', 'rest')}  # nobody would hear it in the lowest block's own errors
    assert edges_of(both) == inside | straight | over | heard
    assert {edge.name for edge in both.unheard} == {'output=>out_1'}
    plain = rlra_jax.regions(Blocks(), helpers.make_batch())
    assert edges_of(wire(plain, overlap=1)) == inside | {('output->out_2', 'error')} | over | rest


def test_levels_and_the_longest_chain_stay_as_blocks_are_added():
    """The chain of the forward pass apart."""

    def chain(count):
        net, batch = net_of(count)
        wiring = wire(net, overlap=1)
        update = rlra_jax.update_fn(net, wiring, Options(normalise=True))
        weights, state = helpers.filled(jax.eval_shape(update.init, KEY))
        program = jax.jit(update).lower(weights, state, batch, KEY).compile().as_text()
        return Program(program).longest_chain() - 2 * count

    for count in (2, 16):
        net, _ = net_of(count)
        assert [len(wire(net, overlap=overlap).levels) for overlap in (0, 1)] == [2, 4]
    assert chain(2) == chain(4)
    assert summary_levels(net_of(2)[0]) == {'0', '1', '2', '3', '4'}


def summary_levels(net):
    regions, *_ = rlra_jax.summary(net, wire(net, overlap=1)).tables
    return {level for _, level, *_ in regions.rows}


@pytest.mark.parametrize('name', helpers.quick(['cnn', 'presnet18'], 'cnn'))
def test_the_readouts_transposed_synapses_are_the_direct_paths_gradient(name):
    """Also of sign units, through which no gradient passes, and after steps of an adaptive optimizer."""
    thin = {'cnn': {'widths': (3, 4, 5), 'strides': (1, 2, 1)}, 'presnet18': {'width': 2, 'blocks': (1, 1)}}
    model = rlra_jax.nn.MODELS[name](classes=4, phi=jnp.sign, norm='group', readout='all', cells=2, **thin[name])
    net = rlra_jax.regions(model, IMAGES)
    wiring = rlra_jax.wire_modules(net, rule=EQUAL)
    update = rlra_jax.update_fn(net, wiring, Options(normalise=True, surrogate=jnp.tanh))
    step = rlra_jax.make_train_step(update, rlra_jax.optimizers(optax.adamw(0.1), optax.adamw(0.1)))
    state = step.init(KEY, helpers.filled(net.variable_shapes()))

    @jax.jit
    def compare(state):
        state, _ = jax.lax.scan(lambda state, key: step.update(state, IMAGES, key), state, jax.random.split(KEY, 3))
        _, _, context = look(
            net, wiring, Options(), rlra_jax.softmax_cross_entropy, state.weights, state.state, IMAGES, KEY
        )
        z = {name: phi(context.h[name]) for name, phi in context.phi.items()}

        def direct(shift):
            seen = forward(net, state.variables, IMAGES, leave=lambda name, _: z[name] + shift[name])
            return rlra_jax.softmax_cross_entropy(seen.h['output'], IMAGES).sum()

        return recur(context).d, jax.grad(direct)(jax.tree.map(jnp.zeros_like, z))

    d, exact = compare(state)
    assert len(net[-1].inputs) == 3
    for region in net[-1].inputs:
        largest = np.abs(exact[region]).max()
        assert largest > 1e-3
        np.testing.assert_allclose(d[f'output->{region}'], exact[region], rtol=0, atol=1e-5 * largest)


def transcribed(W, E, x, logits, wanted, phi, beta, overlap, rest):
    """Loops over blocks: {'dense_in_0': gradient of the kernel, ...}. E: what stands for W; rest: {block: matrix}."""
    last, f = len(W['read']) - 1, PHI[phi]
    e = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - wanted
    h_in, h_out, z_in, z = {}, {}, {}, {-1: x}
    for b in range(last + 1):
        h_in[b] = z[b - 1] @ W['in/kernel'][b] + W['in/bias'][b]
        z_in[b] = f(h_in[b])
        h_out[b] = z_in[b] @ W['out/kernel'][b] + W['out/bias'][b] + (z[b - 1] if b else 0)
        z[b] = f(h_out[b])

    def errors(d):
        e_out = {b: (z[b] - f(h_out[b] - beta * d[b])) / beta for b in d}
        return e_out, {b: (z_in[b] - f(h_in[b] - beta * (e_out[b] @ E['out/kernel'][b].T))) / beta for b in d}

    straight = {b: e @ E['read'][b].T for b in range(last + 1)}
    far = {b: straight[b] + (e @ rest[b] if b in rest else 0) for b in straight}
    e_out, e_in = errors(far)
    if overlap:
        above = {b: e_out[b + 1] + e_in[b + 1] @ E['in/kernel'][b + 1].T for b in range(last)}
        e_out, e_in = errors({b: straight[b] + above.get(b, 0) for b in straight})
    grads = {f'dense_in_{b}': z[b - 1].T @ e_in[b] / len(x) for b in e_in}
    return grads | {f'dense_out_{b}': z_in[b].T @ e_out[b] / len(x) for b in e_out}


@pytest.mark.parametrize(('phi', 'overlap', 'rest'), [('tanh', 1, None), ('tanh', 0, Mirror()), ('sign', 1, Mirror())])
def test_errors_are_those_of_a_numpy_transcription(phi, overlap, rest):
    net, batch = net_of(phi=phi)
    beta = {'tanh': 0.3, 'sign': 3.0}[phi]
    update = rlra_jax.update_fn(net, wire(net, overlap=overlap, rest=rest), Options(beta=beta, normalise=True))
    weights, state = jax.eval_shape(update.init, KEY)
    weights = {part: helpers.filled(tree, 0.7, seed) for seed, (part, tree) in enumerate(weights.items())}
    grads, _, aux = jax.jit(update)(weights, helpers.filled(state), batch, KEY)
    W, E = flatten(weights['params']), {name: E for level in weights['synapses'] for name, E in level.items()}
    along = {path: leaf for name, own in E.items() if name.endswith('->') for path, leaf in own.items()}
    expected = transcribed(
        by_block(W),
        by_block({**W, **along}),  # no error meets the lowest kernel
        *(np.asarray(value, np.float64) for value in (batch['image'], aux.outputs, jax.nn.one_hot(batch['label'], 4))),
        phi,
        beta,
        overlap,
        {b: np.asarray(E[name], np.float64) for b in range(2) if (name := f'output=>out_{b}') in E},
    )
    for name, g in expected.items():
        assert np.abs(g).max() > 0.01
        np.testing.assert_allclose(grads['params'][name]['kernel'], g, atol=2e-5 * np.abs(g).max(), err_msg=name)
    synapses = {name: E for level in grads['synapses'] for name, E in level.items()}
    np.testing.assert_array_equal(synapses['out_1->']['dense_out_1/kernel'], grads['params']['dense_out_1']['kernel'])


def by_block(flat):
    """{'read', 'in', 'out' and the biases: [of each block]}."""
    paths = {'read': ['skips/out_0/kernel', 'skips/out_1/kernel', 'readout/kernel']}
    paths |= {f'{own}/{part}': [f'dense_{own}_{b}/{part}' for b in range(3)] for own in ('in', 'out') for part in PARTS}
    return {name: [np.asarray(flat[path], np.float64) for path in own] for name, own in paths.items()}


def test_the_rest_is_learnt_as_what_does_not_come_straight():
    """In a linear network: the product of the matrices above, without the readout's own."""
    net, batch = net_of(4, phi='identity', size=256)
    wiring = wire(net, overlap=1, rest=Mirror(antithetic=False))
    update = rlra_jax.update_fn(net, wiring, synapse_std=1e-3)
    weights, state = update.init(KEY, helpers.filled(net.variable_shapes(), 0.4))
    rates = {name: 0.5 if '=>' in name else 0.0 for level in wiring.synapses for name in level}

    @jax.jit
    def learn(weights, state, key):
        def one(carry, key):
            weights, state = carry
            grads, state, _ = update(weights, state, batch, key)
            pairs = zip(weights['synapses'], grads['synapses'], strict=True)
            learnt = tuple(
                {name: jax.tree.map(lambda E, g, r=rates[name]: E - r * g, E[name], g[name]) for name in E}
                for E, g in pairs
            )
            return ({**weights, 'synapses': learnt}, state), None

        return jax.lax.scan(one, (weights, state), jax.random.split(key, 200))[0]

    (weights, _), W = learn(weights, state, KEY), flatten(weights['params'])
    found = {name: E for level in weights['synapses'] for name, E in level.items()}
    through = {b: W[f'dense_in_{b}/kernel'] @ W[f'dense_out_{b}/kernel'] + np.eye(6) for b in (2, 3)}
    above = {2: through[3] @ W['readout/kernel']}
    above[1] = through[2] @ (W['skips/out_2/kernel'] + above[2])
    for b in above:
        np.testing.assert_allclose(found[f'output=>out_{b}'], above[b].T, atol=0.02 * np.abs(above[b]).max())


def test_what_cannot_be_joined_so_is_told():
    net, _ = net_of()
    with pytest.raises(ValueError, match='overlap must be 0 or 1; got 2'):
        wire(net, overlap=2)
    with pytest.raises(ValueError, match=r'own errors .* go along paths; edge .*->out_1 is of Dense'):
        wire(net, overlap=1, kind=rlra_jax.Dense())
    with pytest.raises(ValueError, match=r'learn by Mirror, KolenPollack or Fixed; edge .*->out_1 has Dx'):
        wire(net, overlap=1, rule=rlra_jax.Dx())
    with pytest.raises(ValueError, match='the rest comes from an output, over a straight kind'):
        rlra_jax.wire(net, [*wire(net).edges, rlra_jax.Edge('out_2', 'out_0', rlra_jax.Dense(), EQUAL, Carries.REST)])
    with pytest.raises(ValueError, match='what edge output->out_0 carries must be one of Carries'):
        rlra_jax.wire(net, [rlra_jax.Edge('output', 'out_0', rlra_jax.Dense(), EQUAL, 'rest')])


def test_diagnostics_tell_how_well_own_errors_are_handed_on():
    net, batch = net_of(2)
    update = rlra_jax.update_fn(net, wire(net, overlap=1), Options(normalise=True))
    weights, state = update.init(KEY, helpers.filled(net.variable_shapes()))
    told = jax.jit(functools.partial(rlra_jax.diagnose, net, update))(weights, state, batch, KEY)
    for edge in ('in_1->out_0', 'out_1->out_0', 'out_0->in_0', 'output->out_1'):
        assert told[f'alignment/{edge}'] > 0.2
    np.testing.assert_allclose(told['alignment/in_1->out_0'], 1, atol=1e-5)
