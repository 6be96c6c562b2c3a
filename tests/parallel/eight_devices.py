"""Run by test_devices.py in a process with 8 simulated devices; not collected by itself."""

import functools
import re

import delayed_oracle
import flax.linen as nn
import helpers
import jax
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax import mirror
from rlra_jax.options import Options
from rlra_jax.parallel.level import level_update_fn
from rlra_jax.parallel.mesh import make_mesh, replicate, shard_batch
from rlra_jax.parallel.packing import Packing
from rlra_jax.parallel.stage import stage_step
from rlra_jax.types import Learner

KEY = jax.random.key(1)
RATES = optax.sgd(0.05), optax.sgd(0.1, momentum=0.9)
full = pytest.mark.full


class Normed(nn.Module):
    """Batch norm without a bias before it, whose gradient would be rounding alone."""

    @nn.compact
    def __call__(self, x, train=False):
        h = nn.BatchNorm(use_running_average=not train, name='norm')(nn.Dense(6, use_bias=False, name='dense')(x))
        return nn.Dense(4, name='readout')(rlra_jax.Site(jax.numpy.tanh, name='hidden')(h))


@functools.cache
def case(name, rule):
    """(model, wiring, variables, batch, options, step, state after five plain steps on one device, last aux).

    Errors are large (beta 0.5, synapses 0.5): those of order beta^2 would cancel in float32.
    """
    if name == 'mlp':
        model, variables, _ = helpers.make_mlp(depth=16, gap=2)
        batch, options = helpers.make_batch(16), {'radius': 0.5, 'alpha': 0.9, 'kappa': 0.7, 'surrogate': jax.numpy.sin}
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
    else:
        model, variables, batch, wiring = helpers.make_deep(name)
        options = {'train_kwargs': {'train': True}} if name != 'encoder' else {}
    options |= {'beta': 0.5, 'mirror_every': 2, 'mirror_antithetic': name != 'group'}
    if name in ('mlp', 'square', 'normed', 'group', 'batch'):
        wired, kind = 'direct' if name == 'square' else 'blocks', 'pooled' if name == 'group' else 'by_shape'
        wiring = helpers.make_wiring(model, batch['image'], wired, rule=rule, kind=kind)
    learner = rlra_jax.LEARNERS['rec_lra'](model, batch['image'], wiring=wiring, synapse_std=0.5, **options)
    step = rlra_jax.make_train_step(learner, *RATES)
    state = jax.jit(step.init)(KEY, variables, batch)
    state.feedback.memory['step'] += 1  # as one that goes on: the first step does not mirror
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
    update = rlra_jax.update_fn(model, wiring, **plain)
    expected, _, _ = jax.jit(update)(variables, state.feedback, batch, KEY)

    def on_one(batch):
        grads, _, _ = update(variables, state.feedback, batch, KEY)
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
    spread = rlra_jax.make_train_step(Learner(lambda *_: None, level_update_fn(model, wiring, mesh, **options)), *RATES)
    came, came_aux = five(spread.update, replicate(mesh, state), shard_batch(mesh, batch))
    helpers.assert_updates_agree(expected, came)
    helpers.assert_updates_agree(aux, came_aux)


@pytest.mark.parametrize(
    ('name', 'rule', 'sizes', 'microbatches'),
    [
        ('mlp', 'mirror', {'data': 2, 'stage': 4}, 4),
        pytest.param('mlp', 'kp', {'data': 2, 'stage': 4}, 4, marks=full),
        pytest.param('mlp', 'kp', {'stage': 8}, 1, marks=full),
        pytest.param('mlp', 'kp', {'stage': 8}, 4, marks=full),
        pytest.param('mlp', 'kp', {'data': 4, 'stage': 2}, 1, marks=full),
        pytest.param('mlp', 'mirror', {'stage': 8}, 1, marks=full),
        ('square', 'kp', {'stage': 8}, 1),
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
    staged = stage_step(model, wiring, mesh, variables, batch['image'], *RATES, microbatches=microbatches, **options)
    packed = staged.pack(state)
    assert all(row.sharding.spec == jax.P('stage') for row in packed.rows.values())
    came, came_aux = five(staged.update, packed, shard_batch(mesh, batch))
    helpers.assert_updates_agree(expected, jax.device_get(staged.unpack(came)))
    helpers.assert_updates_agree(aux, came_aux)


@pytest.mark.parametrize('rule', ['kp', 'mirror'])
@pytest.mark.parametrize(
    ('sizes', 'microbatches'),
    [
        ({'data': 2, 'stage': 4}, 2),
        pytest.param({'stage': 8}, 1, marks=full),  # weights of up to seven updates ago
        pytest.param({'data': 2, 'stage': 4}, 4, marks=full),
    ],
)
def test_delayed_steps(sizes, microbatches, rule):
    """Against a transcription of when which microbatch passes which stage."""
    model, variables, _ = helpers.make_mlp(depth=8)
    batches = [helpers.make_batch(16, seed=seed) for seed in range(5)]
    wiring, mesh = helpers.make_wiring(model, batches[0]['image'], 'direct', rule=rule), make_mesh(**sizes)
    x = batches[0]['image']
    rates = [0.2, 0.1]
    staged = stage_step(
        model, wiring, mesh, variables, x, *map(optax.sgd, rates), microbatches=microbatches, synapse_std=0.5, beta=0.5
    )
    start = staged.init(KEY, variables, batches[0])
    kernels, biases = helpers.layers(variables['params'])
    synapses = helpers.by_layer(staged.unpack(start).feedback.synapses)
    packing = Packing(model, wiring, variables, x, options=Options(), stages=sizes['stage'])
    many = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *batches)
    keys = jax.random.split(KEY, 5)
    came, aux = jax.jit(staged.delayed)(start, many, keys)
    *expected, logits = delayed_oracle.train(
        kernels,
        biases,
        [synapses[layer] for layer in sorted(synapses)],
        np.asarray(many['image'], np.float64),
        np.asarray(many['label']),
        stages=[s for s, stage in enumerate(packing.stages) for _ in stage.regions],
        shares=sizes.get('data', 1),
        microbatches=microbatches,
        beta=0.5,
        rates=rates,
        noise=_noise(wiring, rlra_jax.sites(model, x), keys) if rule == 'mirror' else None,
    )
    helpers.assert_updates_agree(logits, np.asarray(aux.logits), 5e-5)
    after = staged.unpack(came)
    found = helpers.by_layer(after.feedback.synapses)
    helpers.assert_updates_agree(
        expected, [*helpers.layers(after.variables['params']), [found[layer] for layer in sorted(found)]], 5e-5
    )
    assert after.feedback.memory['step'] == 5


def _noise(wiring, regions, keys):
    """What every step adds to the activity of each hidden region [K, B, n], in forward order."""
    steps = []
    for key in keys:
        (_, outer), _ = mirror.passes(wiring, jax.random.split(key, 3)[2])
        std = Options().mirror_std
        steps.append([mirror.draw(outer[r.name], r.shape, np.float32, std) for r in regions[:-1]])
    return [np.stack(layer).astype(np.float64) for layer in zip(*steps, strict=True)]


def test_stages_write_in_place_and_do_no_work_of_other_kinds():
    """First, middle and last stages share a program; XLA would copy weights, or have each device learn all kinds'."""
    width, batch = 48, {'image': np.zeros((16, 20), np.float32), 'label': np.zeros(16, int)}
    model = rlra_jax.nn.ResidualMLP(width=width, depth=16, gap=2)
    variables = jax.eval_shape(model.init, KEY, batch['image'])
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='kp')
    rates = optax.sgd(0.1), optax.sgd(0.1)
    staged = stage_step(model, wiring, make_mesh(stage=8), variables, batch['image'], *rates)
    state = jax.eval_shape(staged.init, KEY, model.init(KEY, batch['image']), batch)
    text = jax.jit(staged.update, donate_argnums=0).lower(state, batch, KEY).compile().as_text()
    assert not re.search(rf'f32\[{width * width}\]\S* copy\(', text)
    entry = text[text.index('\nENTRY') :]
    gradients = rf'f32\[{width},{width}\]\S* (dot|fusion)\('
    assert re.search(gradients, text)
    assert not re.search(gradients, entry)


@full
def test_delayed_steps_of_one_stage_are_exact():
    """There is nothing to wait for; mirrored steps and all."""
    model, wiring, variables, batch, options, _, state, expected, _ = case('mlp', 'mirror')
    mesh = make_mesh(data=8)
    staged = stage_step(model, wiring, mesh, variables, batch['image'], *RATES, **options)
    many = jax.tree.map(lambda leaf: jax.numpy.stack([leaf] * 5), batch)
    keys = jax.numpy.stack([jax.random.key(i) for i in range(5)])
    came, _ = jax.jit(staged.delayed)(staged.pack(state), many, keys)
    helpers.assert_updates_agree(expected, jax.device_get(staged.unpack(came)))


@full
def test_delayed_mirrors_are_those_of_plain_steps_while_weights_stand_still():
    """No update is missed then, so whatever the noise does on its way up the stages shows."""
    model, variables, _ = helpers.make_mlp(depth=8)
    batches = [helpers.make_batch(16, seed=seed) for seed in range(5)]
    wiring = helpers.make_wiring(model, batches[0]['image'], 'blocks', rule='mirror')
    options = {'mirror_every': 2, 'synapse_std': 0.5, 'beta': 0.5}
    rates, keys = (optax.sgd(0.0), optax.sgd(0.5)), jax.random.split(KEY, 5)
    learner = rlra_jax.LEARNERS['rec_lra'](model, batches[0]['image'], wiring=wiring, **options)
    plain = rlra_jax.make_train_step(learner, *rates)
    start = expected = plain.init(KEY, variables, batches[0])
    for batch, key in zip(batches, keys, strict=True):
        expected, _ = jax.jit(plain.update)(expected, batch, key)
    mesh = make_mesh(data=2, stage=4)
    staged = stage_step(model, wiring, mesh, variables, batches[0]['image'], *rates, microbatches=2, **options)
    many = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *batches)
    came, _ = jax.jit(staged.delayed)(staged.pack(start), many, keys)
    came = jax.device_get(staged.unpack(came))
    helpers.assert_updates_agree(expected.feedback.synapses, came.feedback.synapses)
    learnt = jax.tree.map(lambda a, b: float(abs(a - b).max()), start.feedback.synapses, came.feedback.synapses)
    assert min(jax.tree.leaves(learnt)) > 0.01


@full
def test_delayed_steps_learn_digits():
    from rlra_jax.experiment.data import load

    split = load('digits').train
    image, label = np.asarray(split.image, np.float32).reshape(len(split.label), -1) / 16, np.asarray(split.label)
    model = rlra_jax.nn.MLP(widths=(64,) * 3, init_std=0.15)
    variables = dict(model.init(KEY, image[:32]))
    wiring = rlra_jax.wire_direct(rlra_jax.sites(model, image[:32]), rule='mirror')
    rates = optax.sgd(0.5), optax.sgd(0.1)
    staged = stage_step(model, wiring, make_mesh(data=2, stage=4), variables, image[:32], *rates, normalise=True)
    state = staged.init(KEY, variables, {'image': image[:32], 'label': label[:32]})
    delayed = jax.jit(staged.delayed, donate_argnums=0)
    for epoch in range(20):
        order = np.random.default_rng(epoch).permutation(len(label))[: len(label) // 32 * 32].reshape(-1, 32)
        keys = jax.random.split(jax.random.key(epoch), len(order))
        state, aux = delayed(state, {'image': image[order], 'label': label[order]}, keys)
    assert float(aux.error.mean()) < 0.1


def test_what_stages_refuse():
    model, variables, batch = helpers.make_mlp(depth=2)
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule='mirror')
    mesh = make_mesh(data=4, stage=2)
    options = {'microbatches': 2, 'mirror_antithetic': False}
    staged = stage_step(model, wiring, mesh, variables, batch['image'], *RATES, **options)
    with pytest.raises(ValueError, match='a multiple of data x microbatches = 8; got 12'):
        staged.update(None, batch, KEY)
    with pytest.raises(ValueError, match='one-sided noisy passes do not go with delayed updates'):
        staged.delayed(None, jax.tree.map(lambda leaf: leaf[None], batch), KEY[None])


def test_a_model_whose_regions_depend_on_the_whole_batch():
    model, wiring, variables, batch, options, _, state, _, _ = case('normed', 'kp')
    with pytest.raises(ValueError, match=r'stage mode splits the batch.*batch_stats/norm/mean'):
        stage_step(model, wiring, make_mesh(stage=2), variables, batch['image'], *RATES, **options)
    update = level_update_fn(model, wiring, make_mesh(level=2), **options)
    with pytest.raises(ValueError, match='level mode splits the batch'):
        jax.eval_shape(update, variables, state.feedback, batch, KEY)


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ({'data': 3}, r'multiply to the 8 devices; got \(3, 1, 1\)'),
        ({'stage': 16}, 'data must be a whole number of at least 1; got 0'),
        ({'level': 0}, 'level must be a whole number'),
    ],
)
def test_bad_meshes(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes)


def test_a_batch_that_does_not_split():
    with pytest.raises(ValueError, match='a multiple of the 8 devices that share it; got 12'):
        shard_batch(make_mesh(), helpers.make_batch(12))
