"""What theory says of each learner, against backprop or a closed form."""

import functools

import flax
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax import policies
from rlra_jax.backward import Policy, asymmetric
from rlra_jax.check_cut import heard


class Conv(nn.Module):
    """Strided and padded convolutions, a residual sum and a readout."""

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='hidden_1')(nn.Conv(4, (3, 3), name='conv_1')(x))
        h = nn.Conv(4, (3, 3), name='conv_2')(z) + z
        z = rlra_jax.Site(jnp.tanh, name='hidden_2')(h)
        z = rlra_jax.Site(jnp.tanh, name='hidden_3')(nn.Conv(6, (3, 3), strides=2, padding='VALID', name='conv_3')(z))
        return nn.Dense(3, name='readout')(z.reshape(len(z), -1))


def make_conv():
    x = jax.random.normal(jax.random.key(0), (5, 9, 9, 2))
    batch = {'image': x, 'label': jnp.arange(5) % 3}
    model = Conv()
    return model, dict(model.init(jax.random.key(1), x)), batch


def run(learner, variables, batch, feedback=None):
    feedback = learner.init(jax.random.key(2), variables, batch) if feedback is None else feedback
    grads, after, aux = jax.jit(learner.update)(variables, feedback, batch, jax.random.key(3))
    return grads, after, aux


def gradient(model, variables, batch):
    return run(rlra_jax.LEARNERS['backprop'](model, batch['image']), variables, batch)[0].params


def true_magnitudes():
    return Policy(None, lambda E, W, key: jnp.abs(W) * jnp.sign(W))


@pytest.mark.parametrize('make', [helpers.make_mlp, make_conv])
@pytest.mark.parametrize('policy', [policies.transpose, true_magnitudes], ids=['transpose', 'signs'])
def test_backward_weights_equal_to_w_are_backprop(make, policy):
    """FA with E = W^T, and sign symmetry with true magnitudes, are backprop; shared, strided and padded taps too."""
    model, variables, batch = make()
    learner = asymmetric(model, batch['image'], lambda paths: dict.fromkeys(paths, policy()))
    grads, _, _ = run(learner, variables, batch)
    expected = gradient(model, variables, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads.params, expected)


def test_backward_weights_are_what_the_error_passes():
    """By hand, on a net of two hidden layers with biases: delta_1 = phi'(h_1) (delta_2 B_2^T)."""
    model, variables, batch = helpers.make_mlp(depth=2)
    learner = rlra_jax.LEARNERS['feedback_alignment'](model, batch['image'])
    feedback = learner.init(jax.random.key(2), variables, batch)
    assert set(feedback.synapses) == {'dense_2/kernel', 'readout/kernel'}  # nothing passes dense_1 on its way down
    grads, _, _ = run(learner, variables, batch, feedback)
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
    learner = rlra_jax.LEARNERS['kolen_pollack'](model, batch['image'], decay=decay)
    step = rlra_jax.make_train_step(learner, optax.sgd(rate), optax.sgd(rate))
    update = jax.jit(step.update)
    state = step.init(jax.random.key(0), variables, batch)

    def difference(state):
        W = flax.traverse_util.flatten_dict(state.variables['params'], sep='/')
        return {path: E - W[path] for path, E in state.feedback.synapses.items()}

    before = difference(state)
    for i in range(steps):
        state, _ = update(state, batch, jax.random.key(i))
    factor = (1 - rate * decay) ** steps
    for path, after in difference(state).items():
        np.testing.assert_allclose(after, factor * before[path], atol=1e-5)
        assert jnp.abs(before[path]).max() > 0.1


@pytest.mark.parametrize('make', [helpers.make_mlp, make_conv])
def test_weight_mirrors_learn_w(make):
    model, variables, batch = make()
    learner = rlra_jax.LEARNERS['weight_mirror'](model, batch['image'])
    feedback = learner.init(jax.random.key(2), variables, batch)

    def step(i, E):
        grads, _, _ = learner.update(variables, feedback._replace(synapses=E), batch, jax.random.key(i))
        return jax.tree.map(lambda E, g: E - g / (i + 2), E, grads.synapses)  # a running mean of the estimates

    E = jax.jit(lambda E: jax.lax.fori_loop(0, 1000, step, E))(feedback.synapses)
    W = flax.traverse_util.flatten_dict(variables['params'], sep='/')
    for path in E:
        assert helpers.cosine(feedback.synapses[path], W[path]) < 0.6, path
        assert helpers.cosine(E[path], W[path]) > 0.98, path
        np.testing.assert_allclose(jnp.linalg.norm(E[path]) / jnp.linalg.norm(W[path]), 1, atol=0.1)


def test_mirror_phases_come_every_so_many_steps():
    model, variables, batch = helpers.make_mlp(depth=2)
    learner = rlra_jax.LEARNERS['weight_mirror'](model, batch['image'], mirror_every=3)
    feedback, moved = learner.init(jax.random.key(2), variables, batch), []
    for _ in range(5):
        grads, feedback, _ = run(learner, variables, batch, feedback)
        moved.append(any(np.any(g) for g in jax.tree.leaves(grads.synapses)))
    assert moved == [True, False, False, True, False]


@pytest.mark.parametrize(('name', 'below'), [('fa_bp', 'feedback_alignment'), ('ss_bp', 'sign_symmetry')])
def test_mixtures_are_backprop_above_and_the_other_below(name, below):
    model, variables, batch = helpers.make_mlp(depth=3)
    exact = gradient(model, variables, batch)
    mixed, _, _ = run(rlra_jax.LEARNERS[name](model, batch['image'], last=1), variables, batch)
    pure, _, _ = run(rlra_jax.LEARNERS[below](model, batch['image']), variables, batch)
    for layer in ('readout', 'dense_3'):  # the error arrives at dense_3 over the readout alone
        np.testing.assert_allclose(mixed.params[layer]['kernel'], exact[layer]['kernel'], atol=1e-6)
    assert helpers.cosine(mixed.params['dense_2'], exact['dense_2']) < 0.99
    assert helpers.cosine(pure.params['dense_3'], exact['dense_3']) < 0.99


@pytest.mark.parametrize('last', [0, 3])
def test_mixtures_need_something_to_mix(last):
    model, _, batch = helpers.make_mlp(depth=3)  # three kernels pass an error on
    with pytest.raises(ValueError, match='last must be'):
        rlra_jax.LEARNERS['fa_wm'](model, batch['image'], last=last)


def test_direct_and_chained_rec_lra_tend_to_dfa_and_fa():
    """Normalised, with fixed synapses and beta -> 0."""
    with jax.enable_x64(True):
        model, variables, batch = helpers.make_mlp(depth=3, dtype=jnp.float64)
        dfa = rlra_jax.LEARNERS['direct_feedback_alignment'](model, batch['image'], synapse_std=0.5)
        synapses = dfa.init(jax.random.key(2), variables, batch)
        options = {'rule': 'fixed', 'normalise': True, 'beta': 1e-7}
        ours = rlra_jax.LEARNERS['rec_lra'](model, batch['image'], wiring='direct', **options)
        feedback = ours.init(jax.random.key(2), variables, batch)._replace(synapses=synapses.synapses)
        a, b = run(ours, variables, batch, feedback)[0], run(dfa, variables, batch, synapses)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), a.params, b.params)
        assert jnp.abs(b.params['dense_1']['kernel']).max() > 1e-3

        fa = rlra_jax.LEARNERS['feedback_alignment'](model, batch['image'])
        backward = fa.init(jax.random.key(2), variables, batch)
        ours = rlra_jax.LEARNERS['rec_lra'](model, batch['image'], wiring='chain', **options)
        layer = {'output->hidden_3': 'readout', 'hidden_3->hidden_2': 'dense_3', 'hidden_2->hidden_1': 'dense_2'}
        feedback = ours.init(jax.random.key(2), variables, batch)
        levels = tuple({n: backward.synapses[f'{layer[n]}/kernel'].T for n in level} for level in feedback.synapses)
        a = run(ours, variables, batch, feedback._replace(synapses=levels))[0]
        b = run(fa, variables, batch, backward)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), a.params, b.params)


def test_lra_e_is_rec_lra_in_a_chain():
    model, variables, batch = helpers.make_mlp(depth=3)
    options = {'beta': 0.3, 'gamma': 0.5}
    a = run(rlra_jax.LEARNERS['lra_e'](model, batch['image'], **options), variables, batch)
    b = run(rlra_jax.LEARNERS['rec_lra'](model, batch['image'], wiring='chain', rule='kp', **options), variables, batch)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(('symmetric', 'order'), [(True, 2), (False, 1)])
def test_equilibrium_prop_tends_to_the_gradient_at_its_equilibrium(symmetric, order):
    """The oracle differentiates the settled loss through every step of the free phase."""
    with jax.enable_x64(True):
        model, variables, batch = helpers.make_mlp(depth=2, dtype=jnp.float64, std=0.25)
        make = functools.partial(
            rlra_jax.LEARNERS['equilibrium_prop'], model, batch['image'], free_steps=300, nudged_steps=300
        )

        @jax.jit
        @jax.grad
        def exact(params):
            (W, b), x = _unroll(params), batch['image']
            z = jnp.tanh(x @ W[0] + b[0])
            s = (z, jnp.tanh(z @ W[1] + b[1]))

            def relax(s, _):
                low = jnp.tanh(x @ W[0] + b[0] + s[1] @ W[1].T)
                high = jnp.tanh(s[0] @ W[1] + b[1])  # the readout is no part of the energy
                return ((s[0] + low) / 2, (s[1] + high) / 2), ()

            s, _ = jax.lax.scan(relax, s, length=300)
            logits = s[1] @ W[2] + b[2]
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()

        expected = exact(variables['params'])
        errors = []
        for nudge in (0.4, 0.2) if symmetric else (0.04, 0.02):
            grads, _, _ = run(make(nudge=nudge, symmetric=symmetric), variables, batch)
            gaps = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), grads.params, expected)
            errors.append(max(jax.tree.leaves(gaps)))
        assert errors[1] < 1e-2
        np.testing.assert_allclose(errors[0] / errors[1], 2**order, rtol=0.35)
        assert helpers.cosine(expected['dense_1'], gradient(model, variables, batch)['dense_1']) < 0.999


def _unroll(params):
    layers = [params[name] for name in ('dense_1', 'dense_2', 'readout')]
    return [layer['kernel'] for layer in layers], [layer['bias'] for layer in layers]


def test_equilibrium_prop_predicts_at_its_equilibrium():
    model, variables, batch = helpers.make_mlp(depth=2, std=0.25)
    learner = rlra_jax.LEARNERS['equilibrium_prop'](model, batch['image'], free_steps=50)
    _, _, aux = run(learner, variables, batch)
    np.testing.assert_allclose(learner.predict(variables, batch['image']), aux.logits, atol=1e-5)
    assert jnp.abs(aux.logits - model.apply(variables, batch['image'])).max() > 1e-2


def test_the_difference_correction_cancels_a_perfect_inverse():
    """Where decoders invert exactly, TP and DTP agree; where they don't, DTP alone is quiet at a target that is met."""
    model = rlra_jax.nn.MLP(widths=(6, 6, 6), classes=4, phi=lambda h: h, init_std=0.5)
    batch = helpers.make_batch()
    variables = dict(model.init(jax.random.key(1), batch['image']))
    both = [rlra_jax.LEARNERS[n](model, batch['image'], step=0.5) for n in ('target_prop', 'difference_target_prop')]
    feedback = both[0].init(jax.random.key(2), variables, batch)
    params = variables['params']
    inverse = {}
    for layer in (2, 3):
        E = jnp.linalg.inv(params[f'dense_{layer}']['kernel'])
        inverse[f'hidden_{layer}->hidden_{layer - 1}'] = {'E': E, 'c': -params[f'dense_{layer}']['bias'] @ E}
    perfect = feedback._replace(synapses=inverse)
    (tp, _, _), (dtp, _, _) = (run(learner, variables, batch, perfect) for learner in both)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), tp.params, dtp.params)
    assert jnp.abs(dtp.params['dense_1']['kernel']).max() > 1e-3
    for g in jax.tree.leaves(dtp.synapses):
        np.testing.assert_allclose(g, 0, atol=1e-4)  # nothing is left to restore

    met = [rlra_jax.LEARNERS[n](model, batch['image'], step=1e-9) for n in ('target_prop', 'difference_target_prop')]
    (tp, _, _), (dtp, _, _) = (run(learner, variables, batch, feedback) for learner in met)
    assert jnp.abs(tp.params['dense_1']['kernel']).max() > 1e-2
    np.testing.assert_allclose(dtp.params['dense_1']['kernel'], 0, atol=1e-5)


def test_decoders_learn_to_invert():
    model, variables, batch = helpers.make_mlp(depth=2, std=0.3)
    learner = rlra_jax.LEARNERS['difference_target_prop'](model, batch['image'], noise=0.0)
    feedback = learner.init(jax.random.key(2), variables, batch)

    def step(i, E):
        grads, _, _ = learner.update(variables, feedback._replace(synapses=E), batch, jax.random.key(i))
        return jax.tree.map(lambda E, g: E - 0.5 * g, E, grads.synapses)

    def gap(decoders):
        (decoder,) = decoders.values()
        h = rlra_jax.capture.forward(model, variables, batch['image']).h
        restored = jnp.tanh(jnp.tanh(h['hidden_2']) @ decoder['E'] + decoder['c'])
        return jnp.abs(restored - jnp.tanh(h['hidden_1'])).mean()

    trained = jax.jit(lambda E: jax.lax.fori_loop(0, 4000, step, E))(feedback.synapses)
    assert gap(trained) < 0.2 * gap(feedback.synapses)


DERIVATIVES = sorted(set(rlra_jax.LEARNERS) - {'rec_lra', 'lra_e'})


@pytest.mark.parametrize('name', DERIVATIVES)
def test_units_without_a_derivative_are_refused(name):
    """Else the layers below the last would stand still, unnoticed."""
    model, _, batch = helpers.make_mlp('sign', depth=2)
    with pytest.raises(ValueError, match=r"Sites \['hidden_1', 'hidden_2'\] is zero everywhere"):
        rlra_jax.LEARNERS[name](model, batch['image'])


def test_operations_without_backward_weights_are_refused():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            z = jnp.tanh(nn.DenseGeneral((2, 3), name='general')(x))
            return nn.Dense(4, name='readout')(z.reshape(len(z), -1))

    with pytest.raises(
        ValueError, match=r"no backward weights for \['general/bias', 'general/kernel'\]: only kernels of Conv"
    ):
        rlra_jax.LEARNERS['feedback_alignment'](Net(), helpers.make_batch()['image'])


@pytest.mark.parametrize('name', ['target_prop', 'difference_target_prop'])
def test_target_propagation_needs_a_chain(name):
    model = rlra_jax.nn.ResidualMLP(width=6, depth=4, classes=4)
    x = helpers.make_batch()['image']
    with pytest.raises(ValueError, match=r"'hidden_4' hears \['hidden_2', 'hidden_3'\]"):
        rlra_jax.LEARNERS[name](model, x)


def test_heard_follows_skips():
    model, _, batch = make_conv()
    assert heard(model, batch['image']) == {
        'hidden_1': (),
        'hidden_2': ('hidden_1',),
        'hidden_3': ('hidden_2',),
        'output': ('hidden_3',),
    }
    residual = rlra_jax.nn.ResidualMLP(width=6, depth=5, classes=4)
    assert heard(residual, helpers.make_batch()['image'])['hidden_4'] == ('hidden_2', 'hidden_3')


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('kolen_pollack', {'decay': -1.0}, 'decay'),
        ('weight_mirror', {'mirror_every': 0}, 'mirror_every'),
        ('sign_symmetry', {'magnitude': 'true'}, "unknown magnitude 'true'; known: batchwise, fixed, uniform"),
        ('target_prop', {'step': 0.0}, 'step'),
        ('difference_target_prop', {'noise': -1.0}, 'noise'),
        ('equilibrium_prop', {'nudge': 0.0}, 'nudge'),
        ('equilibrium_prop', {'damping': 1.0}, 'damping'),
    ],
)
def test_options_out_of_range(name, options, message):
    model, _, batch = helpers.make_mlp(depth=2)
    with pytest.raises(ValueError, match=message):
        rlra_jax.LEARNERS[name](model, batch['image'], **options)
