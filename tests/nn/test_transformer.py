import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import transformer_oracle
from learner_cases import CASES

import rlra_jax
from rlra_jax import Options
from rlra_jax.model.gradient import loss_gradient
from rlra_jax.nn import ACTIVATIONS, Transformer, ViT
from rlra_jax.paths import flatten

KEY = jax.random.key(0)


def on_tokens(module, batch):
    return module(batch['tokens'])


def language_model(size=4, length=6, classes=7, **options):
    """(net, batch) of a small one."""
    tokens = jax.random.randint(KEY, (size, length + 1), 0, classes)
    batch = {'tokens': tokens[:, :-1], 'label': tokens[:, 1:]}
    model = Transformer(**{'classes': classes, 'context': length + 2, 'width': 8, 'depth': 2, 'heads': 2, **options})
    return rlra_jax.regions(model, batch, call=on_tokens), batch


def vision(size=4, **options):
    batch = {'image': jax.random.normal(KEY, (size, 8, 4, 3)), 'label': jnp.arange(size) % 4}
    model = ViT(**{'classes': 4, 'patch': 2, 'width': 8, 'depth': 2, 'heads': 2, **options})
    return rlra_jax.regions(model, batch), batch


MAKE = {'transformer': language_model, 'vit': vision}


def nested(params):
    """A transformer's parameters as the oracle names them, in NumPy float64."""

    def block(tree):
        kernels = {name: np.float64(leaf['kernel']) for name, leaf in tree['attention'].items()}
        scales = {name: np.float64(tree[name]['scale']) for name in ('attention_norm', 'mlp_norm')}
        return {'attention': kernels, **scales, **{name: np.float64(tree[name]['kernel']) for name in ('up', 'down')}}

    return {
        'embed': np.float64(params['embed']['embedding']),
        'positions': np.float64(params['positions'][0]),
        **{name: block(tree) for name, tree in params.items() if name.startswith('block')},
        'norm': np.float64(params['norm']['scale']),
        'readout': np.float64(params['readout']['kernel']),
    }


@pytest.mark.parametrize(
    ('wiring', 'phi'),
    [
        (rlra_jax.wire_modules, 'sign'),
        pytest.param(rlra_jax.wire_reverse, 'tanh', marks=pytest.mark.full),
        pytest.param(rlra_jax.wire_direct, 'tanh', marks=pytest.mark.full),
    ],
)
def test_numpy_oracle_of_an_update(wiring, phi):
    """Of two blocks: errors go back over other weights than the forward ones, and from afar over straight synapses."""
    beta = 2.0 if phi == 'sign' else 0.5
    with jax.enable_x64(True):
        net, batch = language_model(phi=ACTIVATIONS[phi], param_dtype=jnp.float64)
        kind = {} if wiring is rlra_jax.wire_reverse else {'kind': rlra_jax.kind_tokens}
        wires = wiring(net, rule=rlra_jax.KolenPollack(), **kind)
        update = rlra_jax.update_fn(net, wires, Options(beta=beta, normalise=True))
        weights, state = update.init(KEY)
        params = helpers.filled(weights['params'], std=0.8, seed=1)
        other = helpers.filled(weights['params'], std=0.8, seed=2)
        # Where a scale is joined with an activity it stays as it passed, which NumPy need not know with equal ones.
        other = jax.tree.map_with_path(lambda path, E, W: W if 'scale' in str(path) else E, other, params)
        along, straight = flatten(other), {}
        for level, edges in zip(weights['synapses'], wires.synapses, strict=True):
            for name, E in level.items():
                if edges[name][0].kind.follows:
                    E.update({path: along[path] for path in E})
                else:
                    level[name] = straight[edges[name][0].target] = helpers.filled(E, std=0.8, seed=3)
        grads, _, _ = jax.jit(update)({**weights, 'params': params}, state, batch, KEY)
        arrays = {region: np.float64(E) for region, E in straight.items()}
        tokens, label = (np.asarray(batch[name]) for name in ('tokens', 'label'))
        expected = transformer_oracle.step(nested(params), nested(other), arrays, tokens, label, phi, beta)
        came = flatten(grads['params'])
        came['positions'] = came['positions'][0]
        assert set(came) == set(expected)
        assert len(straight) == {rlra_jax.wire_reverse: 0, rlra_jax.wire_modules: 1, rlra_jax.wire_direct: 5}[wiring]
        for path, value in expected.items():
            assert np.abs(value).max() > 1e-4, path
            np.testing.assert_allclose(came[path], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=path)
        if wiring is rlra_jax.wire_reverse:  # E takes the very update of what it stands for
            synapses = {path: E for level in grads['synapses'] for own in level.values() for path, E in own.items()}
            assert all(np.array_equal(E, flatten(grads['params'])[path]) for path, E in synapses.items())


@pytest.mark.parametrize(
    ('name', 'cut_mlp'), [('transformer', True), pytest.param('vit', False, marks=pytest.mark.full)]
)
def test_over_the_own_weights_errors_are_the_gradient(name, cut_mlp):
    with jax.enable_x64(True):
        net, batch = MAKE[name](cut_mlp=cut_mlp, param_dtype=jnp.float64)
        wiring = rlra_jax.wire_reverse(net, rule=rlra_jax.Fixed())
        update = rlra_jax.update_fn(net, wiring, Options(beta=1e-6, normalise=True))
        weights, state = update.init(KEY)
        params = helpers.filled(weights['params'], std=0.8)
        own = {'params': params, 'synapses': helpers.own_weights(wiring, net, params)}
        grads, _, _ = jax.jit(update)(own, state, batch, KEY)
        expected = jax.jit(
            lambda params: loss_gradient(net, rlra_jax.softmax_cross_entropy, {'params': params}, batch, KEY)[0]
        )(params)
    helpers.assert_updates_agree(expected, grads['params'], 1e-4)


@pytest.mark.parametrize('cut_mlp', [True, False])
def test_regions(cut_mlp):
    net, _ = language_model(cut_mlp=cut_mlp)
    parts = ['attention_sum', 'act', 'mlp_sum'] if cut_mlp else ['attention_sum', 'mlp_sum']
    assert [region.name for region in net] == [*(f'block_{i}/{part}' for i in (1, 2) for part in parts), 'output']
    inside = rlra_jax.check_cut(net).inside
    assert 'softmax' in inside['block_2/attention_sum']
    assert ('gelu' in inside['block_1/mlp_sum']) == (not cut_mlp)


def test_a_later_token_changes_no_earlier_output():
    net, batch = language_model()
    variables = helpers.filled(net.variable_shapes(), std=1.0)
    before, _ = net.apply(variables, batch)
    for place in range(6):
        tokens = batch['tokens'].at[:, place].set((batch['tokens'][:, place] + 1) % 7)
        after, _ = net.apply(variables, {**batch, 'tokens': tokens})
        changed = np.abs(after - before).max(axis=(0, 2)) > 0
        assert changed.tolist() == [other >= place for other in range(6)]


def test_a_shorter_text_has_the_outputs_of_its_beginning():
    net, batch = language_model()
    variables = helpers.filled(net.variable_shapes(), std=1.0)
    whole, _ = net.apply(variables, batch)
    part, _ = net.apply(variables, {**batch, 'tokens': batch['tokens'][:, :2]})
    np.testing.assert_allclose(part, whole[:, :2], rtol=1e-5, atol=1e-5)


def test_patches_are_squares_of_the_image_and_all_hear_each_other():
    model = ViT(classes=4, patch=2, width=8, depth=1, heads=2)
    x = jax.random.normal(KEY, (1, 4, 6, 3))
    variables = helpers.filled(jax.eval_shape(model.init, KEY, x), std=1.0)
    _, kept = model.apply(variables, x, capture_intermediates=lambda module, _: module.name == 'embed')
    (patches,) = kept['intermediates']['embed']['__call__']
    squares = [x[0, i : i + 2, j : j + 2].reshape(-1) for i in (0, 2) for j in (0, 2, 4)]
    np.testing.assert_allclose(patches[0], np.stack(squares) @ variables['params']['embed']['kernel'], atol=1e-5)

    _, kept = model.apply(variables, x.at[0, 3, 5].add(1.0), capture_intermediates=True)
    _, before = model.apply(variables, x, capture_intermediates=True)
    moved = [
        np.abs(a - b).max(axis=(0, 2))
        for a, b in zip(*(t['intermediates']['block_1']['__call__'] for t in (kept, before)), strict=True)
    ]
    assert np.all(moved[0] > 0)


def train(net, batch, learner, steps, *, synapses=None, learns=lambda path: True):
    """Losses, where the parameters that `learns` names learn."""
    step = rlra_jax.make_train_step(learner, rlra_jax.optimizers(optax.adam(1e-2), synapses or optax.sgd(0.3)))
    state = step.init(KEY)
    first = flatten(state.weights['params'])

    def body(state, key):
        state, aux = step.update(state, batch, key)
        held = {path: W if learns(path) else first[path] for path, W in flatten(state.weights['params']).items()}
        params = jax.tree.unflatten(jax.tree.structure(state.weights['params']), [held[path] for path in first])
        return state._replace(weights={**state.weights, 'params': params}), aux.loss

    return jax.jit(lambda state: jax.lax.scan(body, state, jax.random.split(KEY, steps)))(state)[1]


@pytest.mark.parametrize('wiring', helpers.quick([rlra_jax.wire_reverse, rlra_jax.wire_direct], rlra_jax.wire_reverse))
def test_sign_units_train_below_the_last_layer(wiring):
    """Only the MLPs' kernels below sign units learn, and nothing above the last of them."""
    net, batch = language_model(phi=jnp.sign)
    rule = rlra_jax.Mirror(std=0.5, antithetic=False)
    wires = wiring(net, kind=rlra_jax.kind_tokens, rule=rule)
    learner = rlra_jax.update_fn(net, wires, Options(normalise=True, surrogate=jnp.tanh))
    losses = train(net, batch, learner, 200, synapses=optax.sgd(1.0), learns=lambda path: 'up' in path)
    assert losses[-20:].mean() < 0.75 * losses[0], losses[::20]


REFUSED = ('target_prop', 'difference_target_prop')  # a residual stream is no chain
QUICK = ('kolen_pollack', 'rec_lra', *REFUSED)


@pytest.mark.parametrize('name', helpers.quick(MAKE, 'transformer'))
@pytest.mark.parametrize('learner', helpers.quick(CASES, *QUICK))
def test_every_learner_trains_it_or_says_why_not(name, learner):
    net, batch = MAKE[name]()
    make = rlra_jax.LEARNERS[learner]
    if learner in REFUSED:
        with pytest.raises(
            ValueError, match=r"inverts a chain of regions, .* but 'block_1/mlp_sum' hears \['block_1/at"
        ):
            make(net)
        return
    synapses = optax.adam(1e-2) if learner == 'kolen_pollack' else None  # its E takes the steps of W
    losses = train(net, batch, make(net), 60, synapses=synapses)
    assert losses[-10:].mean() < 0.85 * losses[0], losses[::10]


def test_without_a_cut_inside_the_mlp_regions_are_a_chain():
    net, batch = language_model(cut_mlp=False)
    learner = rlra_jax.LEARNERS['difference_target_prop'](net)
    losses = train(net, batch, learner, 60, synapses=optax.adam(1e-3))
    assert losses[-10:].mean() < 0.85 * losses[0]


@pytest.mark.full
@pytest.mark.parametrize('name', MAKE)
def test_mirrors_find_the_way_back(name):
    """300 noisy passes on standing weights, and the cosine of each region's update with the gradient."""
    net, batch = MAKE[name](size=32)
    update = rlra_jax.update_fn(net, rlra_jax.wire_reverse, Options(beta=0.01, normalise=True))
    weights, state = update.init(KEY)

    def body(carry, key):
        weights, state = carry
        grads, state, _ = update(weights, state, batch, key)
        synapses = jax.tree.map(jnp.subtract, weights['synapses'], grads['synapses'])
        return ({**weights, 'synapses': synapses}, state), None

    keys = jax.random.split(KEY, 600)  # of which every other one mirrors
    weights, state = jax.jit(lambda carry: jax.lax.scan(body, carry, keys)[0])((weights, state))
    told = jax.jit(lambda: rlra_jax.diagnose(net, update, weights, state, batch, KEY))()
    cosines = {name: float(np.cos(np.radians(told[f'angle/{name}']))) for name in [region.name for region in net]}
    assert min(cosines.values()) > 0.95, cosines


@pytest.mark.parametrize('name', MAKE)
def test_in_bfloat16_parameters_and_logits_stay_wide(name):
    net, batch = MAKE[name](dtype=jnp.bfloat16)
    variables = net.variable_shapes()
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    outputs, _ = jax.eval_shape(net.apply, variables, batch)
    assert outputs.dtype == jnp.float32
    assert {region.dtype for region in net[:-1]} == {jnp.dtype('bfloat16')}


IMAGE, TOKENS = jnp.ones((2, 8, 8, 1)), jnp.ones((2, 8), int)


@pytest.mark.parametrize(
    ('model', 'x', 'message'),
    [
        (Transformer(heads=3), TOKENS, 'heads must be a divisor of the width 128; got 3'),
        (Transformer(depth=0), TOKENS, 'depth must be a whole number of at least 1; got 0'),
        (Transformer(hidden=0), TOKENS, 'hidden must be a whole number of at least 1; got 0'),
        (Transformer(context=0), TOKENS, 'context must be a whole number of at least 1; got 0'),
        (Transformer(context=7), TOKENS, r"tokens must be integer \[B, T\], T at most 7; got 'int32 \(2, 8\)'"),
        (Transformer(), IMAGE, r"tokens must be integer \[B, T\], T at most 64; got 'float32 \(2, 8, 8, 1\)'"),
        (Transformer(phi='gelu'), TOKENS, "phi must be a function, .*; got 'gelu'"),
        (ViT(patch=3), IMAGE, 'patch must be a divisor of the sides 8 and 8 of the images; got 3'),
        (ViT(classes=0), IMAGE, 'classes must be a whole number of at least 1; got 0'),
    ],
)
def test_fields_out_of_their_range(model, x, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, KEY, x)
