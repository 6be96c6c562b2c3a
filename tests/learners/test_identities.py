"""Learners without backward weights against theory: limits, equilibria, inverses; and what all of them refuse."""

import functools

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax


def test_direct_and_chained_rec_lra_tend_to_dfa_and_fa():
    """Normalised, with fixed synapses and beta -> 0."""
    with jax.enable_x64(True):
        model, variables, batch = helpers.make_mlp(depth=3, dtype=jnp.float64)
        dfa = apart.make_learner('direct_feedback_alignment', model, batch['image'], synapse_std=0.5)
        synapses = dfa.init(jax.random.key(2), variables, batch)
        options = {'rule': 'fixed', 'normalise': True, 'beta': 1e-7}
        ours = apart.rec_lra(model, batch['image'], wiring='direct', kind='dense', **options)
        feedback = ours.init(jax.random.key(2), variables, batch)._replace(synapses=synapses.synapses)
        a, b = (
            helpers.run_learner(ours, variables, batch, feedback)[0],
            helpers.run_learner(dfa, variables, batch, synapses)[0],
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), a.params, b.params)
        assert jnp.abs(b.params['dense_1']['kernel']).max() > 1e-3

        fa = apart.make_learner('feedback_alignment', model, batch['image'])
        backward = fa.init(jax.random.key(2), variables, batch)
        ours = apart.rec_lra(model, batch['image'], wiring='chain', **options)
        feedback = ours.init(jax.random.key(2), variables, batch)
        levels = tuple(
            {name: {path: backward.synapses[path] for path in E} for name, E in level.items()}
            for level in feedback.synapses
        )
        a = helpers.run_learner(ours, variables, batch, feedback._replace(synapses=levels))[0]
        b = helpers.run_learner(fa, variables, batch, backward)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), a.params, b.params)


def test_lra_e_is_rec_lra_in_a_chain():
    model, variables, batch = helpers.make_mlp(depth=3)
    options = {'beta': 0.3, 'gamma': 0.5}
    a = helpers.run_learner(apart.make_learner('lra_e', model, batch['image'], **options), variables, batch)
    b = helpers.run_learner(
        apart.rec_lra(model, batch['image'], wiring='chain', rule='kp', **options), variables, batch
    )
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(('symmetric', 'order'), [pytest.param(True, 2, marks=pytest.mark.full), (False, 1)])
def test_equilibrium_prop_tends_to_the_gradient_at_its_equilibrium(symmetric, order):
    """The oracle differentiates the settled loss through every step of the free phase."""
    with jax.enable_x64(True):
        model, variables, batch = helpers.make_mlp(depth=2, dtype=jnp.float64, std=0.25)
        make = functools.partial(
            apart.make_learner, 'equilibrium_prop', model, batch['image'], free_steps=300, nudged_steps=300
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
            grads, _, _ = helpers.run_learner(make(nudge=nudge, symmetric=symmetric), variables, batch)
            gaps = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), grads.params, expected)
            errors.append(max(jax.tree.leaves(gaps)))
        assert errors[1] < 1e-2
        np.testing.assert_allclose(errors[0] / errors[1], 2**order, rtol=0.35)
        assert helpers.cosine(expected['dense_1'], helpers.gradient(model, variables, batch)['dense_1']) < 0.999


def _unroll(params):
    layers = [params[name] for name in ('dense_1', 'dense_2', 'readout')]
    return [layer['kernel'] for layer in layers], [layer['bias'] for layer in layers]


class Masked(nn.Module):
    """Layers over positions, whose activation function knows which of them count."""

    @nn.compact
    def __call__(self, x, kept):
        def phi(h):
            return jnp.where(kept[..., None], jnp.tanh(h), 0)

        for _ in range(2):
            x = rlra_jax.Site(phi)(nn.Dense(5)(x))
        return nn.Dense(3)(x.mean(axis=1))


def test_equilibrium_props_activations_may_know_the_batch():
    batch = {
        'image': jax.random.normal(jax.random.key(1), (4, 5, 3)),
        'kept': jnp.arange(5) < jnp.array([5, 3, 2, 4])[:, None],
        'label': jnp.arange(4) % 3,
    }
    net = rlra_jax.regions(Masked(), batch, call=lambda model, batch: model(batch['image'], batch['kept']))
    learner = rlra_jax.learners.equilibrium_prop(net)
    grads, _, _ = jax.jit(learner.update)(*learner.init(jax.random.key(0)), batch, jax.random.key(2))
    moved = {**batch, 'image': jnp.where(batch['kept'][..., None], batch['image'], 9.0)}
    same, _, _ = jax.jit(learner.update)(*learner.init(jax.random.key(0)), moved, jax.random.key(2))
    assert all(np.any(g) for g in jax.tree.leaves(grads))
    helpers.assert_updates_agree(grads, same)  # what lies where nothing counts has no part in it


def test_equilibrium_props_label_reaches_the_lowest_of_many_regions():
    model, variables, batch = helpers.make_mlp(depth=6)
    learner = apart.make_learner('equilibrium_prop', model, batch['image'])
    grads, _, _ = helpers.run_learner(learner, variables, batch)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads.params))


def test_equilibrium_prop_predicts_at_its_equilibrium():
    model, variables, batch = helpers.make_mlp(depth=2, std=0.25)
    learner = apart.make_learner('equilibrium_prop', model, batch['image'], free_steps=50)
    _, _, aux = helpers.run_learner(learner, variables, batch)
    np.testing.assert_allclose(learner.predict(variables, batch['image']), aux.logits, atol=1e-5)
    assert jnp.abs(aux.logits - model.apply(variables, batch['image'])).max() > 1e-2


def test_equilibrium_prop_answers_in_inference():
    """An example's answer is the same in any company, and needs no key for dropout."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            h = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
            h = nn.Dropout(0.5, deterministic=not train)(h)
            return nn.Dense(4)(rlra_jax.Site(jnp.tanh)(h))

    batch = helpers.make_batch()
    learner = rlra_jax.LEARNERS['equilibrium_prop'](rlra_jax.regions(Net(), batch))
    weights, state = learner.init(jax.random.key(0))
    variables = {'params': weights['params'], **state.collections}
    together = learner.predict(variables, batch)
    alone = learner.predict(variables, {name: value[:1] for name, value in batch.items()})
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-5)
    assert np.abs(alone).max() > 1e-3


def test_learners_have_floats_of_the_model_where_wider_ones_are_allowed():
    with jax.enable_x64(True):
        batch = {
            name: value.astype(np.float32) if name == 'image' else value for name, value in helpers.make_batch().items()
        }
        net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(5, 5), classes=4), batch)
        settling = rlra_jax.LEARNERS['equilibrium_prop'](net, damping=np.float64(0.5))
        weights, state = settling.init(jax.random.key(0))
        settling(weights, state, batch, jax.random.key(1))
        signs = rlra_jax.LEARNERS['sign_symmetry'](net, magnitude='fixed')
        weights, _ = signs.init(jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype('float32')}


def test_the_difference_correction_cancels_a_perfect_inverse():
    """Where decoders invert exactly, TP and DTP agree; where they don't, DTP alone is quiet at a target that is met."""
    model = rlra_jax.nn.MLP(widths=(6, 6, 6), classes=4, phi=lambda h: h, init_std=0.5)
    batch = helpers.make_batch()
    variables = dict(model.init(jax.random.key(1), batch['image']))
    both = [apart.make_learner(n, model, batch['image'], step=0.5) for n in ('target_prop', 'difference_target_prop')]
    feedback = both[0].init(jax.random.key(2), variables, batch)
    params = variables['params']
    inverse = {}
    for layer in (2, 3):
        E = jnp.linalg.inv(params[f'dense_{layer}']['kernel'])
        inverse[f'hidden_{layer}->hidden_{layer - 1}'] = {'E': E, 'c': -params[f'dense_{layer}']['bias'] @ E}
    perfect = feedback._replace(synapses=inverse)
    (tp, _, _), (dtp, _, _) = (helpers.run_learner(learner, variables, batch, perfect) for learner in both)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), tp.params, dtp.params)
    assert jnp.abs(dtp.params['dense_1']['kernel']).max() > 1e-3
    for g in jax.tree.leaves(dtp.synapses):
        np.testing.assert_allclose(g, 0, atol=1e-4)  # nothing is left to restore

    met = [apart.make_learner(n, model, batch['image'], step=1e-9) for n in ('target_prop', 'difference_target_prop')]
    (tp, _, _), (dtp, _, _) = (helpers.run_learner(learner, variables, batch, feedback) for learner in met)
    assert jnp.abs(tp.params['dense_1']['kernel']).max() > 1e-2
    np.testing.assert_allclose(dtp.params['dense_1']['kernel'], 0, atol=1e-5)


def test_decoders_learn_to_invert():
    model, variables, batch = helpers.make_mlp(depth=2, std=0.3)
    learner = apart.make_learner('difference_target_prop', model, batch['image'], noise=0.0)
    feedback = learner.init(jax.random.key(2), variables, batch)

    def step(i, E):
        grads, _, _ = learner.update(variables, feedback._replace(synapses=E), batch, jax.random.key(i))
        return jax.tree.map(lambda E, g: E - 0.5 * g, E, grads.synapses)

    def gap(decoders):
        (decoder,) = decoders.values()
        h = apart.forward(model, variables, batch['image']).h
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
        apart.make_learner(name, model, batch['image'])


def test_slopes_are_looked_for_in_a_regions_own_shape():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            mask = x[:, :6] > 0
            z = rlra_jax.Site(lambda h: jnp.where(mask, h, jnp.arange(6.0) * h), name='scaled')(nn.Dense(6)(x))
            return nn.Dense(4)(rlra_jax.Site(jnp.round, name='rounded')(nn.Dense(6)(z)))

    with pytest.raises(ValueError, match=r"Sites \['rounded'\] is zero everywhere"):
        apart.make_learner('backprop', Net(), helpers.make_batch()['image'])


@pytest.mark.parametrize('name', ['target_prop', 'difference_target_prop'])
def test_target_propagation_needs_a_chain(name):
    model = rlra_jax.nn.ResidualMLP(width=6, depth=4, classes=4)
    x = helpers.make_batch()['image']
    with pytest.raises(ValueError, match=r"'hidden_4' hears \['hidden_2', 'hidden_3'\]"):
        apart.make_learner(name, model, x)


def test_inputs_follow_skips():
    model, _, batch = helpers.make_conv()
    assert {region.name: region.inputs for region in apart.sites(model, batch['image'])} == {
        'hidden_1': (),
        'hidden_2': ('hidden_1',),
        'hidden_3': ('hidden_2',),
        'output': ('hidden_3',),
    }
    residual = rlra_jax.nn.ResidualMLP(width=6, depth=5, classes=4)
    fourth = apart.sites(residual, helpers.make_batch()['image'])[3]
    assert (fourth.name, fourth.inputs) == ('hidden_4', ('hidden_2', 'hidden_3'))


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
        (
            'equilibrium_prop',
            {'nudged_steps': 1},
            'at least 2, the number of hidden regions; got 1',
        ),
    ],
)
def test_options_out_of_range(name, options, message):
    model, _, batch = helpers.make_mlp(depth=2)
    with pytest.raises(ValueError, match=message):
        apart.make_learner(name, model, batch['image'], **options)
