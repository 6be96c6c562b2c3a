"""The oracles of rec-LRA's one step, numbered 1 to 6, on every pair of activation, wiring and depth."""

import itertools

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from apart import cut_vjp
from helpers import pairs

import rlra_jax
from rlra_jax.recursion.propagate import propagate

ACTIVATIONS = ('tanh', 'relu', 'elu', 'sigmoid', 'sign')
DIFFERENTIABLE = ('tanh', 'relu', 'elu', 'sigmoid')  # almost everywhere
WIRINGS = ('direct', 'blocks', 'chain')
EACH = list(zip(ACTIVATIONS, itertools.cycle(WIRINGS), strict=False))
NETS = (  # depth, layers that a skip passes over, rule
    (1, None, 'kp'),
    (8, None, 'kp'),
    (8, 2, 'kp'),
    (7, 3, 'kp'),
    (5, None, 'hebbian'),
    (8, 2, 'fixed'),
)


@pytest.mark.parametrize(('phi', 'net', 'wiring_name'), pairs(ACTIVATIONS, NETS, WIRINGS))
def test_oracle_1_numpy_loops(phi, net, wiring_name):
    check_against_loops(phi, wiring_name, *net)


@pytest.mark.parametrize('phi', ['tanh', 'sigmoid', 'sign'])
def test_oracle_1_dx(phi):
    """For sign, whose derivative is zero, the rule leaves E alone."""
    check_against_loops(phi, 'blocks', 5, None, 'dx')


def check_against_loops(phi, wiring_name, depth, residual, rule):
    gap = residual or 2
    beta, std = (2.0, 2.0) if phi == 'sign' else (0.7, 0.5)
    with jax.enable_x64(True):
        _, _, variables, feedback, batch, update = helpers.make_step(
            phi, wiring_name, depth, gap=gap, rule=rule, residual=residual, std=std, beta=beta, gamma=0.3
        )
        grads, _, _ = update(variables, feedback, batch, jax.random.key(0))
        (W, b), E = helpers.layers(variables['params']), helpers.by_layer(feedback.synapses)
        onehot = np.eye(4)[np.asarray(batch['label'])]
        x = np.asarray(batch['image'])
        dW, db, dE, _ = oracle.step(W, b, E, x, onehot, phi, wiring_name, gap, beta, rule, 0.3, residual)
        kernels, biases = helpers.layers(grads.params)
        for ours, theirs in zip([*kernels, *biases], [*dW, *db], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)
        for layer, ours in helpers.by_layer(grads.synapses).items():
            np.testing.assert_allclose(ours, dE[layer], atol=1e-9)
        assert all(np.abs(theirs).max() > 0 for theirs in dW)


@pytest.mark.parametrize(('phi', 'wiring_name'), EACH)
def test_oracle_1_in_float32(phi, wiring_name):
    _, _, variables, feedback, batch, update = helpers.make_step(
        phi, wiring_name, 4, dtype=jnp.float32, rule='kp', beta=1.0
    )
    grads, _, _ = update(variables, feedback, batch, jax.random.key(0))
    (W, b), E = helpers.layers(variables['params']), helpers.by_layer(feedback.synapses)
    onehot = np.eye(4)[np.asarray(batch['label'])]
    dW, db, dE, _ = oracle.step(W, b, E, np.asarray(batch['image']), onehot, phi, wiring_name, 2, 1.0, 'kp')
    kernels, biases = helpers.layers(grads.params)
    for ours, theirs in zip([*kernels, *biases], [*dW, *db], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for layer, ours in helpers.by_layer(grads.synapses).items():
        np.testing.assert_allclose(ours, dE[layer], atol=1e-5)


@pytest.mark.parametrize(
    ('phi', 'depth', 'normalise'),
    [
        ('tanh', 1, False),
        ('relu', 3, False),
        ('elu', 1, True),
        ('sigmoid', 3, True),
        ('tanh', 8, True),
        ('relu', 8, True),
        ('elu', 3, False),
        ('sigmoid', 1, False),
    ],
)
def test_oracle_2_backprop_limit(phi, depth, normalise):
    """Chain, E = W^T: dW_l / beta^(L-l) tends to the gradient, linearly in beta."""

    def worst(beta):
        model, wiring, variables, feedback, batch, update = helpers.make_step(
            phi, 'chain', depth, beta=beta, normalise=normalise
        )
        kernels, _ = helpers.layers(variables['params'])
        transposed = {edge.name: jnp.asarray(kernels[int(edge.target[7:])].T) for edge in wiring.edges}
        synapses = tuple({name: transposed[name] for name in level} for level in feedback.synapses)
        grads, _, _ = update(variables, feedback._replace(synapses=synapses), batch, jax.random.key(0))
        ours, _ = helpers.layers(grads.params)
        theirs, _ = helpers.layers(helpers.gradient(model, variables, batch))
        scales = [1.0 if normalise else beta ** (depth - layer) for layer in range(depth + 1)]
        return max(
            np.abs(a / scale - g).max() / np.abs(g).max() for a, g, scale in zip(ours, theirs, scales, strict=True)
        )

    # Without normalising, e shrinks like beta^depth, and even float64 can't hold a smaller beta.
    coarse_beta, fine_beta, bound = (1e-2, 1e-4, 1e-3) if normalise else (1e-1, 1e-2, 3e-2)
    with jax.enable_x64(True):
        coarse, fine = worst(coarse_beta), worst(fine_beta)
    assert fine < bound
    assert phi == 'relu' or fine < 2 * coarse * fine_beta / coarse_beta


def test_normalised_errors_survive_a_long_chain_in_float32():
    """Without it, e of the first of 8 layers is lost to cancellation; with it, it agrees with float64."""

    model, wiring, variables, feedback, batch, _ = helpers.make_step('tanh', 'chain', 8, dtype=jnp.float32)

    def first_layer(dtype, normalise):
        update = apart.update_fn(model, wiring, beta=0.02, normalise=normalise)
        cast = jax.tree.map(lambda x: x.astype(dtype), (variables, feedback.synapses, batch['image']))
        inputs = cast[0], feedback._replace(synapses=cast[1]), {**batch, 'image': cast[2]}
        return update(*inputs, jax.random.key(0))[0].params['dense_1']['kernel']

    with jax.enable_x64(True):
        exact = first_layer(jnp.float64, True)
        assert helpers.cosine(exact, first_layer(jnp.float32, True)) > 0.99
        with pytest.warns(UserWarning, match='8 recursion levels .* normalise=True'):
            assert not np.any(first_layer(jnp.float32, False))


@pytest.mark.parametrize(('phi', 'wiring_name', 'depth'), pairs(ACTIVATIONS, WIRINGS, [1, 5, 8]))
def test_oracle_3_every_region_is_updated_at_initialisation(phi, wiring_name, depth):
    """For sign, beta and synapses must be large enough to flip some units in every region of a chain."""
    beta, std = (2.0, 2.0) if phi == 'sign' else (0.1, 0.3)
    model = rlra_jax.nn.MLP(widths=(32,) * depth, phi=rlra_jax.nn.ACTIVATIONS[phi], classes=4)
    batch = helpers.make_batch(size=32)
    variables = dict(model.init(jax.random.key(1), batch['image']))
    wiring = helpers.make_wiring(model, batch['image'], wiring_name)
    feedback = apart.init_feedback(jax.random.key(5), model, wiring, variables, batch['image'], std=std)
    update = apart.update_fn(model, wiring, beta=beta, normalise=True)
    grads, _, _ = update(variables, feedback, batch, jax.random.key(0))
    for name, layer in grads.params.items():
        assert np.abs(layer['kernel']).max() > 0, name
        assert np.abs(layer['bias']).max() > 0, name


@pytest.mark.parametrize('wiring_name', WIRINGS)
@pytest.mark.parametrize('phi', ['tanh', 'sign'])
def test_oracle_4_locality(wiring_name, phi):
    """Perturbing one synapse changes its target and what lies below that in the error forest, and nothing else."""
    std = 2.0 if phi == 'sign' else 0.5
    _, wiring, variables, feedback, batch, update = helpers.make_step(
        phi, wiring_name, 8, dtype=jnp.float32, std=std, beta=1.0
    )
    update = jax.jit(update)
    before, _, _ = update(variables, feedback, batch, jax.random.key(0))
    for edge in wiring.edges:
        synapses = tuple({k: 3.0 - E if k == edge.name else E for k, E in level.items()} for level in feedback.synapses)
        after, _, _ = update(variables, feedback._replace(synapses=synapses), batch, jax.random.key(0))
        below = {edge.target}
        for other in wiring.edges:
            below |= {other.target} if other.source in below else set()
        for layer in range(1, 9):
            ours, theirs = (grads.params[f'dense_{layer}']['kernel'] for grads in (before, after))
            changed = bool((ours != theirs).any())
            if f'hidden_{layer}' not in below:
                assert not changed, (edge.name, layer)
            elif f'hidden_{layer}' == edge.target:
                assert changed, (edge.name, layer)


@pytest.mark.parametrize(('phi', 'wiring_name'), EACH)
def test_oracle_4_batch_independence(phi, wiring_name):
    model, wiring, variables, feedback, batch, _ = helpers.make_step(phi, wiring_name, 4, dtype=jnp.float32, std=2.0)

    def errors(image):
        seen, _ = cut_vjp(model, variables, image)
        error = jax.nn.softmax(seen.h['output']) - jax.nn.one_hot(batch['label'], 4)
        return propagate(wiring, feedback.synapses, seen.h, seen.phi, {'output': error}, rlra_jax.Options(beta=0.5)).e

    before, after = errors(batch['image']), errors(batch['image'].at[0].add(1.0))
    for name in before:
        np.testing.assert_allclose(before[name][1:], after[name][1:], rtol=1e-5, atol=1e-7)
        assert phi == 'sign' or np.abs(before[name][0] - after[name][0]).max() > 1e-6


@pytest.mark.parametrize(('phi', 'wiring_name'), list(zip(DIFFERENTIABLE, ['direct', 'chain'] * 2, strict=True)))
def test_oracle_5_direct_and_plain_feedback_alignment(phi, wiring_name):
    """As beta -> 0, e / beta from the output is DFA, and the chain with e / beta^(L-l) is FA."""
    with jax.enable_x64(True):
        _, _, variables, feedback, batch, update = helpers.make_step(phi, wiring_name, 5, beta=1e-5, normalise=True)
        grads, _, _ = update(variables, feedback, batch, jax.random.key(0))
        ours, _ = helpers.layers(grads.params)
        (W, b), B = helpers.layers(variables['params']), helpers.by_layer(feedback.synapses)
        h, z = oracle.forward(W, b, np.asarray(batch['image']), phi)
        delta = {6: z[6] - np.eye(4)[np.asarray(batch['label'])]}
        for layer in range(5, 0, -1):
            delta[layer] = delta[6 if wiring_name == 'direct' else layer + 1] @ B[layer] * oracle.SLOPE[phi](h[layer])
        for layer in range(1, 7):
            expected = z[layer - 1].T @ delta[layer] / 12
            np.testing.assert_allclose(ours[layer - 1], expected, atol=2e-4 * np.abs(expected).max())


class TinyCNN(nn.Module):
    phi: object

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(self.phi, name='map')(nn.Conv(3, (3, 3), padding='VALID', name='conv')(x))
        return nn.Dense(4, name='readout')(z.reshape(z.shape[0], -1))


@pytest.mark.parametrize('phi', ACTIVATIONS)
def test_oracle_6_explicit_rules_of_dense_and_convolution(phi):
    """Eq. 5 by the explicit sums over positions equals what the cut's vector-Jacobian product gives."""
    model = TinyCNN(rlra_jax.nn.ACTIVATIONS[phi])
    batch = helpers.make_batch(size=5)
    image = jax.random.normal(jax.random.key(3), (5, 6, 5, 2))
    batch = {'image': image, 'label': batch['label'][:5]}
    variables = dict(model.init(jax.random.key(0), image))
    wiring = helpers.make_wiring(model, image, 'direct', rule='fixed')
    feedback = apart.init_feedback(jax.random.key(1), model, wiring, variables, image, std=1.0)
    grads, _, _ = apart.update_fn(model, wiring, beta=0.5)(variables, feedback, batch, jax.random.key(0))

    seen, _ = cut_vjp(model, variables, image)
    h = np.asarray(seen.h['map'], np.float64)
    e_out = np.asarray(jax.nn.softmax(seen.h['output'])) - np.eye(4)[np.asarray(batch['label'])]
    d = (e_out @ np.asarray(feedback.synapses[0]['output->map'])).reshape(h.shape)
    e = oracle.PHI[phi](h) - oracle.PHI[phi](h - 0.5 * d)
    dW = np.zeros((3, 3, 2, 3))
    for n, i, j in np.ndindex(*h.shape[:3]):
        patch = np.asarray(image[n, i : i + 3, j : j + 3])
        dW += patch[..., None] * e[n, i, j] / 5
    np.testing.assert_allclose(grads.params['conv']['kernel'], dW, atol=1e-5)
    np.testing.assert_allclose(grads.params['conv']['bias'], e.sum(axis=(0, 1, 2)) / 5, atol=1e-5)
    np.testing.assert_allclose(
        grads.params['readout']['kernel'], oracle.PHI[phi](h).reshape(5, -1).T @ e_out / 5, atol=1e-5
    )


@pytest.mark.parametrize(
    ('phi', 'wiring_name', 'rule'), pairs(['tanh', 'sign'], WIRINGS, ['kp', 'hebbian', 'dx', 'fixed'])
)
def test_a_path_over_a_dense_layer_is_a_dense_synapse(phi, wiring_name, rule):
    """What the NumPy oracle says of dense synapses holds for paths: the same updates, E transposed."""
    with jax.enable_x64(True):
        shared = {'gap': 2, 'rule': rule, 'std': 2.0 if phi == 'sign' else 0.5, 'beta': 0.7, 'gamma': 0.3}
        *_, variables, feedback, batch, update = helpers.make_step(phi, wiring_name, 5, **shared)
        _, wiring, _, along, _, update_along = helpers.make_step(phi, wiring_name, 5, kind='by_shape', **shared)
        assert any(edge.kind.follows for edge in wiring.edges)

        def as_paths(synapses):
            """A path's synapse holds the kernel of the layer between its regions."""
            dense = {name: E for level in synapses for name, E in level.items()}

            def of(name, edges):
                (weight,) = along_flat[name] if edges[0].kind.follows else (None,)
                return {weight: dense[edges[0].name].T} if weight else dense[name]

            return tuple({name: of(name, edges) for name, edges in level.items()} for level in wiring.synapses)

        along_flat = {name: E for level in along.synapses for name, E in level.items()}
        expected, _, _ = update(variables, feedback, batch, jax.random.key(0))
        came, _, _ = update_along(
            variables, along._replace(synapses=as_paths(feedback.synapses)), batch, jax.random.key(0)
        )
        expected = expected._replace(synapses=as_paths(expected.synapses))
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(came), strict=True):
            np.testing.assert_allclose(b, a, atol=1e-9)
