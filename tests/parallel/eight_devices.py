"""Run by test_devices.py in a process with 8 simulated devices; not collected by itself."""

import functools
import re

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax.parallel.mesh import make_mesh, replicate, shard_batch
from rlra_jax.wiring.choose import kind_straight

KEY = jax.random.key(1)
RATES = optax.sgd(0.05), optax.sgd(0.1, momentum=0.9)
APART = *RATES, optax.sgd(0.03, momentum=0.5)  # synapses along paths have one of their own
full = pytest.mark.full


class Normed(nn.Module):
    """Batch norm without a bias before it, whose gradient would be rounding alone."""

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.BatchNorm(use_running_average=not train, name='norm')(nn.Dense(6, use_bias=False, name='dense')(x))
        return nn.Dense(4, name='readout')(rlra_jax.Site(jnp.tanh, name='hidden')(h))


# Its masked units have kinks: weights moved by 3e-7 of themselves change what it learns in five steps by up to 4 %.
TOLERANCE = {'presnet': 1e-3}


@functools.cache
def case(name, rule, kind='by_shape'):
    """(model, wiring, variables, batch, options, step, state after five plain steps on one device, last aux).

    Errors are large (beta 0.5, synapses 0.5): those of order beta^2 would cancel in float32.
    """
    if name == 'mlp':
        model, variables, _ = helpers.make_mlp(depth=16, gap=2)
        batch, options = helpers.make_batch(16), {'radius': 0.5, 'alpha': 0.9, 'kappa': 0.7, 'surrogate': jnp.sin}
    elif name == 'square':  # all layers of one shape: what most stages hold, the last one holds too
        batch = helpers.make_batch(16)
        model, variables, _ = helpers.make_mlp(depth=8, width=batch['image'][0].size)
        options = {}
    elif name == 'normed':
        model, batch, options = Normed(), helpers.make_batch(16), {'train_kwargs': {'train': True}}
        variables = dict(model.init(KEY, batch['image']))
    elif name in ('group', 'batch'):
        model, variables, batch, train_kwargs = helpers.make_four_stages(name, 16)
        options = {'train_kwargs': train_kwargs}
    elif name in ('readouts', 'overlap', 'rest', 'rest and overlap'):
        overlap, rest = int('overlap' in name), rlra_jax.Mirror(every=2) if 'rest' in name else None
        model, variables, batch, wiring = helpers.make_skips(blocks=4, rule=rule, overlap=overlap, rest=rest)
        options = {}
    else:
        model, variables, batch, wiring = helpers.make_deep(name)
        options = {'train_kwargs': {'train': True}} if name != 'encoder' else {}
    options |= {'beta': 0.5}
    rule = rlra_jax.Mirror(every=2, antithetic=name != 'group') if rule == 'mirror' else rule
    if name in ('mlp', 'square', 'normed', 'group', 'batch'):
        wired, kind = 'direct' if name == 'square' else 'blocks', 'pooled' if name == 'group' else kind
        wiring = helpers.make_wiring(model, batch['image'], wired, rule=rule, kind=kind)
    learner = apart.rec_lra(model, batch['image'], wiring=wiring, synapse_std=0.5, **options)
    step = apart.make_train_step(learner, *(APART if 'rest' in name else RATES))
    state = jax.jit(step.init)(KEY, variables, batch)
    state.state.memory['step'] += 1  # as one that goes on: the first step does not mirror
    return model, wiring, variables, batch, options, step, state, *five(step.update, state, batch)


def five(update, state, batch):
    update = jax.jit(update)
    for i in range(5):
        state, aux = update(state, batch, jax.random.key(i))
    return jax.device_get(state), jax.device_get(aux)


def test_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize(
    ('name', 'rule'),
    [('normed', 'kp'), *(pytest.param(name, 'mirror', marks=full) for name in ('mlp', 'group', 'batch'))],
)
def test_the_plain_step_is_data_parallel_by_input_shardings(name, rule):
    """Batch-norm statistics are those of the global batch."""
    *_, batch, _, step, state, expected, aux = case(name, rule)
    mesh = make_mesh()
    came, came_aux = five(step.update, replicate(mesh, state), shard_batch(mesh, batch))
    helpers.assert_updates_agree(expected, came)
    helpers.assert_updates_agree(aux, came_aux)


@full
def test_pmap_of_the_update():
    model, wiring, variables, batch, options, _, state, _, _ = case('mlp', 'kp')
    plain = {key: value for key, value in options.items() if key != 'radius'}  # it applies to the mean of all devices
    update = apart.update_fn(model, wiring, **plain)
    expected, _, _ = jax.jit(update)(variables, apart.feedback_of(state), batch, KEY)

    def on_one(batch):
        grads, _, _ = update(variables, apart.feedback_of(state), batch, KEY)
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
    model, wiring, _, batch, options, _, state, expected, aux = case(name, rule)
    mesh = make_mesh(**sizes)
    spread = apart.make_train_step(apart.level_learner(model, wiring, mesh, batch['image'], **options), *RATES)
    came, came_aux = five(spread.update, replicate(mesh, state), shard_batch(mesh, batch))
    helpers.assert_updates_agree(expected, came, TOLERANCE.get(name, 2e-5))
    helpers.assert_updates_agree(aux, came_aux, TOLERANCE.get(name, 2e-5))


def test_paths_of_level_mode_descend_beside_straight_edges():
    """What the rule dx aims at takes the displacements of all edges, which devices found for regions of their own."""
    model, variables, _ = helpers.make_mlp(depth=4)
    batch, mesh, options = helpers.make_batch(16), make_mesh(data=2, level=4), {'beta': 0.5, 'surrogate': jnp.sin}
    edges = [
        *(helpers.edge('output', f'hidden_{i}', rule='dx') for i in range(1, 5)),
        *(helpers.edge(f'hidden_{i + 1}', f'hidden_{i}', 'path', 'dx') for i in (1, 3)),
    ]
    wiring = rlra_jax.wire(apart.sites(model, batch['image']), edges)
    feedback = apart.init_feedback(KEY, model, wiring, variables, batch['image'], std=0.5)
    plain, spread = apart.update_fn(model, wiring, **options), apart.level_update_fn(model, wiring, mesh, **options)
    expected, _, _ = jax.jit(plain)(variables, feedback, batch, KEY)
    state = replicate(mesh, (variables, feedback))
    came, _, _ = jax.jit(spread)(*state, shard_batch(mesh, batch), KEY)
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


@pytest.mark.parametrize('mode', ['level', 'stage'])
def test_an_activity_of_another_type_than_what_it_is_made_of(mode):
    batch = helpers.make_batch(16)
    net = rlra_jax.regions(Narrowing(), batch)
    wiring, mesh = rlra_jax.wire_direct(net, rule=rlra_jax.KolenPollack()), make_mesh(data=2, **{mode: 4})
    optimizer = rlra_jax.optimizers(optax.sgd(0.1))
    plain = rlra_jax.make_train_step(rlra_jax.update_fn(net, wiring), optimizer)
    state = plain.init(KEY)
    expected, _ = jax.jit(plain.update)(state, batch, KEY)
    if mode == 'stage':
        staged = rlra_jax.parallel.stage_step(net, wiring, mesh, optimizer)
        came = staged.unpack(jax.jit(staged.update)(staged.pack(state), shard_batch(mesh, batch), KEY)[0])
    else:
        spread = rlra_jax.make_train_step(rlra_jax.parallel.level_update_fn(net, wiring, mesh), optimizer)
        came, _ = jax.jit(spread.update)(replicate(mesh, state), shard_batch(mesh, batch), KEY)
    moved, expected = (
        jax.tree.map(lambda a, b: a - b, jax.device_get(own.weights), jax.device_get(state.weights))
        for own in (came, expected)
    )
    helpers.assert_updates_agree(expected, moved, 0.05)  # errors are of the activities' 8 bits


def test_level_mode_takes_what_is_fitted_to_data_beforehand():
    model = rlra_jax.nn.FastResNet(widths=(4, 4), classes=4, norm='group', readout='all', cells=2)
    batch = {'image': jax.random.normal(KEY, (16, 9, 9, 3)), 'label': np.arange(16) % 4}
    net = rlra_jax.regions(model, batch)
    wiring, options = rlra_jax.wire_modules(net, rule=rlra_jax.KolenPollack()), rlra_jax.Options(beta=0.5)
    mesh = make_mesh(data=2, level=4)
    one = rlra_jax.update_fn(net, wiring, options)
    spread = rlra_jax.parallel.level_update_fn(net, wiring, mesh, options)
    weights, state = helpers.filled(jax.eval_shape(one.init, KEY), 0.5)
    expected, _, _ = jax.jit(one.update)(weights, state, batch, KEY)
    came, _, _ = jax.jit(spread.update)(*replicate(mesh, (weights, state)), shard_batch(mesh, batch), KEY)
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
    weights, state = helpers.filled(jax.eval_shape(one.init, KEY), 0.5)
    expected, _, _ = jax.jit(one)(weights, state, batch, KEY)
    came, _, _ = jax.jit(spread)(*replicate(mesh, (weights, state)), shard_batch(mesh, batch), KEY)
    assert all(jnp.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(expected))
    helpers.assert_updates_agree(jax.device_get(expected), jax.device_get(came))


@pytest.mark.parametrize(
    ('name', 'rule', 'sizes', 'microbatches'),
    [
        ('mlp', 'mirror', {'data': 2, 'stage': 4, 'slices': 2, 'across': 'stage'}, 4),
        pytest.param('mlp', 'mirror', {'data': 2, 'stage': 4}, 4, marks=full),
        pytest.param('mlp', 'kp', {'data': 2, 'stage': 4}, 4, marks=full),
        pytest.param('mlp', 'kp', {'stage': 8}, 1, marks=full),
        pytest.param('mlp', 'kp', {'stage': 8}, 4, marks=full),
        pytest.param('mlp', 'kp', {'data': 4, 'stage': 2}, 1, marks=full),
        pytest.param('mlp', 'mirror', {'stage': 8}, 1, marks=full),
        ('square', 'kp', {'stage': 8}, 1),
        ('readouts', 'kp', {'data': 2, 'stage': 4}, 4),
        ('overlap', 'kp', {'data': 2, 'stage': 4}, 4),
        ('rest and overlap', 'kp', {'data': 2, 'stage': 4}, 4),
        pytest.param('rest', 'kp', {'data': 2, 'stage': 4}, 4, marks=full),
        pytest.param('rest and overlap', 'kp', {'data': 4, 'stage': 2}, 1, marks=full),
        pytest.param('overlap', 'kp', {'data': 4, 'stage': 2}, 1, marks=full),
        pytest.param('readouts', 'kp', {'data': 4, 'stage': 2}, 1, marks=full),
        pytest.param('readouts', 'mirror', {'data': 2, 'stage': 4}, 4, marks=full),
        pytest.param('square', 'mirror', {'data': 4, 'stage': 2}, 4, marks=full),
        pytest.param('group', 'mirror', {'data': 2, 'stage': 4}, 4, marks=full),
        pytest.param('square', 'kp', {'data': 4, 'stage': 2}, 4, marks=full),
        pytest.param('group', 'kp', {'data': 2, 'stage': 4}, 1, marks=full),
        pytest.param('group', 'kp', {'data': 2, 'stage': 4}, 4, marks=full),
        pytest.param('resnet', 'kp', {'data': 2, 'stage': 4}, 4, marks=full),
        pytest.param('presnet', 'kp', {'data': 2, 'stage': 4}, 1, marks=full),
        pytest.param('encoder', 'kp', {'data': 2, 'stage': 4}, 4, marks=full),
    ],
)
def test_stage_pipeline(name, rule, sizes, microbatches):
    model, wiring, variables, batch, options, _, state, expected, aux = case(name, rule)
    mesh = make_mesh(**sizes)
    rates = APART if 'rest' in name else RATES
    staged = apart.stage_step(
        model, wiring, mesh, variables, batch['image'], *rates, microbatches=microbatches, **options
    )
    packed = staged.pack(state)
    assert all(row.sharding.spec == jax.P('stage') for row in packed.rows.values())
    came, came_aux = five(staged.update, packed, shard_batch(mesh, batch))
    helpers.assert_updates_agree(expected, jax.device_get(staged.unpack(came)), TOLERANCE.get(name, 5e-5))
    helpers.assert_updates_agree(aux, came_aux, TOLERANCE.get(name, 5e-5))


def test_stages_hand_own_errors_past_a_wider_one():
    """The top stage holds the readout alone and hands nothing down; what lies below is wider than what others hand."""
    batch, options = helpers.make_batch(16), rlra_jax.Options(beta=0.5)
    plain = rlra_jax.regions(rlra_jax.nn.MLP(widths=(8, 8, 24), classes=4), batch)
    net = rlra_jax.nn.with_readouts(plain, ['hidden_1', 'hidden_2'])
    kind = lambda source, target: rlra_jax.Dense() if source.output else rlra_jax.Path()  # noqa: E731
    wiring = rlra_jax.wire_modules(net, overlap=1, rule=rlra_jax.KolenPollack(), kind=kind)
    optimizer, mesh = rlra_jax.optimizers(optax.sgd(0.1)), make_mesh(data=2, stage=4)
    one = rlra_jax.make_train_step(rlra_jax.update_fn(net, wiring, options), optimizer)
    staged = rlra_jax.parallel.stage_step(net, wiring, mesh, optimizer, options)
    state = jax.jit(one.init)(KEY)
    expected, _ = jax.jit(one.update)(state, batch, KEY)
    came, _ = jax.jit(staged.update)(staged.pack(state), shard_batch(mesh, batch), KEY)
    helpers.assert_updates_agree(jax.device_get(expected), jax.device_get(staged.unpack(came)), 5e-5)


def test_stages_write_in_place_and_do_no_work_of_other_kinds():
    """First, middle and last stages share a program; XLA would copy weights, or have each device learn all kinds'."""
    width, batch = 48, {'image': np.zeros((16, 20), np.float32), 'label': np.zeros(16, int)}
    model = rlra_jax.nn.ResidualMLP(width=width, depth=16, gap=2)
    variables = jax.eval_shape(model.init, KEY, batch['image'])
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='kp')
    rates = optax.sgd(0.1), optax.sgd(0.1)
    staged = apart.stage_step(model, wiring, make_mesh(stage=8), variables, batch['image'], *rates)
    state = jax.eval_shape(staged.init, KEY, model.init(KEY, batch['image']), batch)
    text = jax.jit(staged.update, donate_argnums=0).lower(state, batch, KEY).compile().as_text()
    assert not re.search(rf'f32\[{width * width}\]\S* copy\(', text)
    entry = text[text.index('\nENTRY') :]
    gradients = rf'f32\[{width},{width}\]\S* (dot|fusion)\('
    assert re.search(gradients, text)
    assert not re.search(gradients, entry)


@full
def test_an_optimizer_whose_state_holds_constants():
    """Those of adafactor where a leaf is too small to be factored; they do not vary over the devices by themselves."""
    model, variables, batch = helpers.make_mlp(depth=4, gap=2)
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='kp')
    rates = optax.adafactor(1e-2), optax.sgd(0.1)
    learner = apart.rec_lra(model, batch['image'], wiring=wiring, beta=0.5, synapse_std=0.5)
    plain = apart.make_train_step(learner, *rates)
    state = plain.init(KEY, variables, batch)
    staged = apart.stage_step(model, wiring, make_mesh(stage=2, data=4), variables, batch['image'], *rates, beta=0.5)
    expected, _ = jax.jit(plain.update)(state, batch, KEY)
    came, _ = jax.jit(staged.update)(staged.pack(state), batch, KEY)
    helpers.assert_updates_agree(expected, jax.device_get(staged.unpack(came)))


@full
def test_delayed_steps_of_one_stage_are_exact():
    """There is nothing to wait for; mirrored steps and all."""
    model, wiring, variables, batch, options, _, state, expected, _ = case('mlp', 'mirror')
    mesh = make_mesh(data=8)
    staged = apart.stage_step(model, wiring, mesh, variables, batch['image'], *RATES, **options)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), batch)
    keys = jnp.stack([jax.random.key(i) for i in range(5)])
    came, _ = jax.jit(staged.delayed)(staged.pack(state), many, keys)
    helpers.assert_updates_agree(expected, jax.device_get(staged.unpack(came)))


def test_devices_of_a_stage_share_a_batch():
    model, variables, batch = helpers.make_mlp(depth=2)
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule='kp')
    staged = apart.stage_step(model, wiring, make_mesh(data=4, stage=2), variables, batch['image'], *RATES)
    state = jax.eval_shape(staged.init, KEY, variables, batch)
    (shares,) = (
        [var.aval.shape[:2] for var in eqn.params['jaxpr'].invars]
        for eqn in jax.make_jaxpr(staged.update)(state, batch, KEY).eqns
        if eqn.primitive.name == 'shard_map'
    )
    assert (1, 3) in shares  # of one batch of 12
    assert (1, 12) not in shares


def test_what_stages_refuse():
    model, variables, batch = helpers.make_mlp(depth=2)
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule=rlra_jax.Mirror(antithetic=False))
    mesh = make_mesh(data=4, stage=2)
    options = {'microbatches': 2}
    staged = apart.stage_step(model, wiring, mesh, variables, batch['image'], *RATES, **options)
    with pytest.raises(ValueError, match='a multiple of data x microbatches = 8; got 12'):
        staged.update(None, batch, KEY)
    with pytest.raises(ValueError, match='one-sided noisy passes do not go with delayed updates'):
        staged.delayed(None, jax.tree.map(lambda leaf: leaf[None], batch), KEY[None])


def test_a_model_whose_regions_depend_on_the_whole_batch():
    model, wiring, variables, batch, options, _, state, _, _ = case('normed', 'kp', kind_straight)
    with pytest.raises(ValueError, match=r'stage mode splits the batch.*batch_stats/norm/mean'):
        apart.stage_step(model, wiring, make_mesh(stage=2), variables, batch['image'], *RATES, **options)
    update = apart.level_update_fn(model, wiring, make_mesh(level=2), **options)
    with pytest.raises(ValueError, match='level mode splits the batch'):
        jax.eval_shape(update, variables, apart.feedback_of(state), batch, KEY)


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
