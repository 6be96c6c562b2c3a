"""Meshes, data and level modes. Run by test_devices.py in a process with 8 simulated devices; not collected alone."""

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import parallel_cases as cases
import pytest

import rlra_jax
from rlra_jax.parallel.mesh import make_mesh, replicate, shard_batch
from rlra_jax.wiring.choose import kind_straight

full = pytest.mark.full


def test_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize(
    ('name', 'rule'),
    [('normed', 'kp'), *(pytest.param(name, 'mirror', marks=full) for name in ('mlp', 'group', 'batch'))],
)
def test_the_plain_step_is_data_parallel_by_input_shardings(name, rule):
    """Batch-norm statistics are those of the global batch."""
    *_, batch, _, step, state, expected, aux = cases.case(name, rule)
    mesh = make_mesh()
    came, came_aux = cases.five(step.update, replicate(mesh, state), shard_batch(mesh, batch))
    helpers.assert_updates_agree(expected, came)
    helpers.assert_updates_agree(aux, came_aux)


@full
def test_pmap_of_the_update():
    model, wiring, variables, batch, options, _, state, _, _ = cases.case('mlp', 'kp')
    plain = {key: value for key, value in options.items() if key != 'radius'}  # it applies to the mean of all devices
    update = apart.update_fn(model, wiring, **plain)
    expected, _, _ = jax.jit(update)(variables, apart.feedback_of(state), batch, cases.KEY)

    def on_one(batch):
        grads, _, _ = update(variables, apart.feedback_of(state), batch, cases.KEY)
        return jax.lax.pmean(grads, 'devices')

    shares = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
    came = jax.pmap(on_one, axis_name='devices')(shares)
    helpers.assert_updates_agree(expected, jax.tree.map(lambda leaf: np.asarray(leaf[0]), came))


@pytest.mark.parametrize(
    ('name', 'rule', 'sizes'),
    [
        ('mlp', 'mirror', {'level': 8}),
        pytest.param('mlp', 'kp', {'data': 2, 'level': 4}, marks=full),
        pytest.param('mlp', 'kp', {'data': 4, 'level': 2}, marks=full),
        pytest.param('group', 'kp', {'level': 8}, marks=full),
        pytest.param('group', 'mirror', {'data': 2, 'level': 4}, marks=full),
        pytest.param('resnet', 'kp', {'data': 2, 'level': 4}, marks=full),
        pytest.param('presnet', 'kp', {'level': 8}, marks=full),
        pytest.param('encoder', 'kp', {'level': 8}, marks=full),
    ],
)
def test_level_mode(name, rule, sizes):
    model, wiring, _, batch, options, _, state, expected, aux = cases.case(name, rule)
    mesh = make_mesh(**sizes)
    spread = apart.make_train_step(apart.level_learner(model, wiring, mesh, batch['image'], **options), *cases.RATES)
    came, came_aux = cases.five(spread.update, replicate(mesh, state), shard_batch(mesh, batch))
    helpers.assert_updates_agree(expected, came, cases.TOLERANCE.get(name, 2e-5))
    helpers.assert_updates_agree(aux, came_aux, cases.TOLERANCE.get(name, 2e-5))


def test_paths_of_level_mode_descend_beside_straight_edges():
    """What the rule dx aims at takes the displacements of all edges, which devices found for regions of their own."""
    model, variables, _ = helpers.make_mlp(depth=4)
    batch, mesh, options = helpers.make_batch(16), make_mesh(data=2, level=4), {'beta': 0.5, 'surrogate': jnp.sin}
    edges = [
        *(helpers.edge('output', f'hidden_{i}', rule='dx') for i in range(1, 5)),
        *(helpers.edge(f'hidden_{i + 1}', f'hidden_{i}', 'path', 'dx') for i in (1, 3)),
    ]
    wiring = rlra_jax.wire(apart.sites(model, batch['image']), edges)
    feedback = apart.init_feedback(cases.KEY, model, wiring, variables, batch['image'], std=0.5)
    plain, spread = apart.update_fn(model, wiring, **options), apart.level_update_fn(model, wiring, mesh, **options)
    expected, _, _ = jax.jit(plain)(variables, feedback, batch, cases.KEY)
    state = replicate(mesh, (variables, feedback))
    came, _, _ = jax.jit(spread)(*state, shard_batch(mesh, batch), cases.KEY)
    assert all(jnp.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(expected.synapses))
    helpers.assert_updates_agree(jax.device_get(expected), jax.device_get(came))


class Narrowing(nn.Module):
    """Normalises in float32, and hands on bfloat16."""

    @nn.compact
    def __call__(self, x):
        for i in range(4):
            h = nn.LayerNorm(dtype=jnp.float32)(nn.Dense(6, dtype=jnp.bfloat16)(x))
            x = rlra_jax.Site(lambda h: jnp.tanh(h).astype(jnp.bfloat16), name=f'act_{i}')(h)
        return nn.Dense(4, dtype=jnp.float32)(x)


@pytest.mark.filterwarnings('ignore:the phi of .* puts out')
@pytest.mark.parametrize('mode', ['level', 'stage'])
@pytest.mark.parametrize(
    ('model', 'tolerance'),
    [(Narrowing(), 0.05), (helpers.Boxed(), 1e-3)],  # errors are differences of activities, which have 8 bits, or 24
    ids=['activities of another type than what they are made of', 'parameters that name an axis of another mesh'],
)
def test_what_other_models_hold(model, tolerance, mode):
    batch = helpers.make_batch(16)
    net = rlra_jax.regions(model, batch)
    wiring, mesh = rlra_jax.wire_direct(net, rule=rlra_jax.KolenPollack()), make_mesh(data=2, **{mode: 4})
    optimizer = rlra_jax.optimizers(optax.sgd(0.1))
    plain = rlra_jax.make_train_step(rlra_jax.update_fn(net, wiring), optimizer)
    state = plain.init(cases.KEY)
    expected, _ = jax.jit(plain.update)(state, batch, cases.KEY)
    if mode == 'stage':
        staged = rlra_jax.parallel.stage_step(net, wiring, mesh, optimizer)
        came = staged.unpack(jax.jit(staged.update)(staged.pack(state), shard_batch(mesh, batch), cases.KEY)[0])
    else:
        spread = rlra_jax.make_train_step(rlra_jax.parallel.level_update_fn(net, wiring, mesh), optimizer)
        came, _ = jax.jit(spread.update)(replicate(mesh, state), shard_batch(mesh, batch), cases.KEY)
    moved, expected = (
        jax.tree.map(lambda a, b: a - b, jax.device_get(own.weights), jax.device_get(state.weights))
        for own in (came, expected)
    )
    helpers.assert_updates_agree(expected, moved, tolerance)


def test_level_mode_takes_what_is_fitted_to_data_beforehand():
    model = rlra_jax.nn.FastResNet(widths=(4, 4), classes=4, norm='group', readout='all', cells=2)
    batch = {'image': jax.random.normal(cases.KEY, (16, 9, 9, 3)), 'label': np.arange(16) % 4}
    net = rlra_jax.regions(model, batch)
    wiring, options = rlra_jax.wire_modules(net, rule=rlra_jax.KolenPollack()), rlra_jax.Options(beta=0.5)
    mesh = make_mesh(data=2, level=4)
    one = rlra_jax.update_fn(net, wiring, options)
    spread = rlra_jax.parallel.level_update_fn(net, wiring, mesh, options)
    weights, state = helpers.filled(jax.eval_shape(one.init, cases.KEY), 0.5)
    expected, _, _ = jax.jit(one.update)(weights, state, batch, cases.KEY)
    came, _, _ = jax.jit(spread.update)(*replicate(mesh, (weights, state)), shard_batch(mesh, batch), cases.KEY)
    helpers.assert_updates_agree(jax.device_get(expected), jax.device_get(came))


def test_level_mode_knows_own_errors_and_the_rest():
    plain = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=5, depth=6, classes=4), helpers.make_batch(16))
    net, batch = rlra_jax.nn.with_readouts(plain, ['hidden_2', 'hidden_4']), helpers.make_batch(16)
    wiring = rlra_jax.wire_modules(
        net,
        block=lambda name: (int(name[-1]) + 1) // 2,
        rule=rlra_jax.KolenPollack(),
        rest=rlra_jax.Mirror(),
        overlap=1,
        sends=0.6,
    )
    assert wiring.own
    assert wiring.unheard
    mesh = make_mesh(data=2, level=4)
    one, spread = (
        rlra_jax.update_fn(net, wiring, rlra_jax.Options(beta=0.5)),
        rlra_jax.parallel.level_update_fn(net, wiring, mesh, rlra_jax.Options(beta=0.5)),
    )
    weights, state = helpers.filled(jax.eval_shape(one.init, cases.KEY), 0.5)
    expected, _, _ = jax.jit(one)(weights, state, batch, cases.KEY)
    came, _, _ = jax.jit(spread)(*replicate(mesh, (weights, state)), shard_batch(mesh, batch), cases.KEY)
    assert all(jnp.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(expected))
    helpers.assert_updates_agree(jax.device_get(expected), jax.device_get(came))


def test_a_model_whose_regions_depend_on_the_whole_batch():
    model, wiring, variables, batch, options, _, state, _, _ = cases.case('normed', 'kp', kind_straight)
    with pytest.raises(ValueError, match=r'stage mode splits the batch.*batch_stats/norm/mean'):
        apart.stage_step(model, wiring, make_mesh(stage=2), variables, batch['image'], *cases.RATES, **options)
    update = apart.level_update_fn(model, wiring, make_mesh(level=2), **options)
    with pytest.raises(ValueError, match='level mode splits the batch'):
        jax.eval_shape(update, variables, apart.feedback_of(state), batch, cases.KEY)


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ({'data': 3}, r'multiply to the 8 devices; got \(3, 1, 1\)'),
        ({'stage': 16}, 'level times stage must be a divisor of the 8 devices there are; got 16'),
        ({'level': 0}, 'level must be a whole number'),
        ({'slices': 3}, 'data, which 3 slices share, must be a multiple of 3; got 8'),
        ({'slices': 2, 'across': 'stage'}, 'stage, which 2 slices share, must be a multiple of 2; got 1'),
        ({'slices': 2, 'across': 'batch'}, "across must be one of data, level, stage; got 'batch'"),
        ({'slices': 0}, 'slices must be a whole number'),
    ],
)
def test_bad_meshes(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes)


@pytest.mark.parametrize(
    ('sizes', 'of_slice_0'),
    [
        ({'slices': 2, 'data': 2, 'stage': 4}, [[0, 1, 2, 3]]),
        ({'slices': 2, 'data': 2, 'stage': 4, 'across': 'stage'}, [[0, 1], [2, 3]]),
        ({'slices': 4, 'stage': 4, 'across': 'stage'}, [[0], [1]]),
    ],
)
def test_only_one_axis_lies_across_slices(sizes, of_slice_0):
    """Simulated devices make slices as they follow each other; any other axis stays inside."""
    mesh = make_mesh(**sizes)
    ids = np.vectorize(lambda device: device.id)(mesh.devices)[:, 0]
    rows, columns = np.shape(of_slice_0)
    assert ids[:rows, :columns].tolist() == of_slice_0
    at = ids // (8 // sizes['slices'])
    along = 1 if sizes.get('across') == 'stage' else 0
    assert (np.diff(at, axis=1 - along) == 0).all()
    assert (np.sort(at, axis=along) == at).all()
    assert mesh.shape == make_mesh(data=sizes.get('data', -1), stage=sizes['stage']).shape


def test_a_batch_that_does_not_split():
    with pytest.raises(ValueError, match='a multiple of the 8 devices that share it; got 12'):
        shard_batch(make_mesh(), helpers.make_batch(12))


def test_a_batch_of_level_mode_that_does_not_split():
    model, wiring, variables, _, options, _, state, _, _ = cases.case('mlp', 'kp')
    update = apart.level_update_fn(model, wiring, make_mesh(level=4, data=2), **options)
    with pytest.raises(ValueError, match='a multiple of the 8 devices that share it; got 12'):
        jax.eval_shape(update, variables, apart.feedback_of(state), helpers.make_batch(12), cases.KEY)
