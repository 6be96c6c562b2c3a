"""Stages, without delay. Run by test_devices.py in a process with 8 simulated devices; not collected alone."""

import re

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
from rlra_jax.parallel.mesh import make_mesh, shard_batch

full = pytest.mark.full


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
    model, wiring, variables, batch, options, _, state, expected, aux = cases.case(name, rule)
    mesh = make_mesh(**sizes)
    rates = cases.APART if 'rest' in name else cases.RATES
    staged = apart.stage_step(
        model, wiring, mesh, variables, batch['image'], *rates, microbatches=microbatches, **options
    )
    packed = staged.pack(state)
    assert all(row.sharding.spec == jax.P('stage') for row in packed.rows.values())
    came, came_aux = cases.five(staged.update, packed, shard_batch(mesh, batch))
    helpers.assert_updates_agree(expected, jax.device_get(staged.unpack(came)), cases.TOLERANCE.get(name, 5e-5))
    helpers.assert_updates_agree(aux, came_aux, cases.TOLERANCE.get(name, 5e-5))


def both(net, wiring, batch, options, sizes, microbatches=1):
    """(the weights before a step, after a plain one and after one in stages, and what both told)."""
    optimizer = rlra_jax.optimizers(optax.sgd(1.0))
    plain = rlra_jax.make_train_step(rlra_jax.update_fn(net, wiring, options, synapse_std=0.5), optimizer)
    mesh = make_mesh(**sizes)
    staged = rlra_jax.parallel.stage_step(net, wiring, mesh, optimizer, options, microbatches=microbatches)
    state = plain.init(cases.KEY)
    stages = jax.jit(staged.update, donate_argnums=0)  # what is packed is a copy
    came, own_aux = stages(staged.pack(state), shard_batch(mesh, batch), cases.KEY)
    expected, aux = jax.jit(plain.update)(state, batch, cases.KEY)
    return jax.device_get((state.weights, expected.weights, staged.unpack(came).weights, aux, own_aux))


def test_stages_add_the_noise_of_the_plain_step():
    net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(6,) * 4, classes=4), batch := helpers.make_batch(16))
    wiring = rlra_jax.wire_direct(net, kind=rlra_jax.Dense(), rule=rlra_jax.KolenPollack())
    options = rlra_jax.Options(beta=0.5, input_noise=0.3)
    _, expected, came, *told = both(net, wiring, batch, options, {'data': 2, 'stage': 4}, 2)
    helpers.assert_updates_agree(expected, came, 5e-5)
    helpers.assert_updates_agree(*told, 5e-5)


def test_stages_alike_but_for_an_option_of_one_region_are_no_one_kind():
    net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(6,) * 3, classes=4), batch := helpers.make_batch(4))
    wiring = rlra_jax.wire_direct(net, kind=rlra_jax.Dense(), rule=rlra_jax.KolenPollack())
    options = rlra_jax.Options(beta=0.5, kappa={'hidden_3': 0.25}, alpha={'hidden_2': 0.5})
    _, expected, came, *_ = both(net, wiring, batch, options, {'stage': 4})
    helpers.assert_updates_agree(expected, came, 5e-5)


class Mixed(nn.Module):
    """All activities are bfloat16 and pre-activations float32, or the other way round."""

    wide_h: bool

    @nn.compact
    def __call__(self, x):
        def phi(h):
            return jnp.tanh(h).astype(jnp.bfloat16) if self.wide_h else jnp.tanh(h.astype(jnp.float32))

        for i in range(4):
            h = nn.Dense(6, dtype=jnp.float32)(x)
            x = rlra_jax.Site(phi, name=f'act_{i}')(h if self.wide_h else h.astype(jnp.bfloat16))
        return nn.Dense(4, dtype=jnp.float32)(x).astype(jnp.bfloat16)


@pytest.mark.filterwarnings('ignore:the phi of .* puts out')
@pytest.mark.parametrize(
    ('wide_h', 'overlap'), [pytest.param(False, 0, marks=full), (False, 1), pytest.param(True, 0, marks=full)]
)
def test_what_goes_between_stages_is_not_rounded(wide_h, overlap):
    net = rlra_jax.regions(Mixed(wide_h), batch := helpers.make_batch(16))
    wiring = rlra_jax.wire_modules(net, block=lambda name: name, overlap=overlap, rule=rlra_jax.KolenPollack())
    before, *after, _, _ = both(net, wiring, batch, rlra_jax.Options(beta=0.5), {'data': 2, 'stage': 4})
    moved = [jax.tree.map(lambda a, b: np.float32(a) - np.float32(b), each, before) for each in after]
    helpers.assert_updates_agree(*moved, 1e-4)


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
    state = jax.jit(one.init)(cases.KEY)
    expected, _ = jax.jit(one.update)(state, batch, cases.KEY)
    came, _ = jax.jit(staged.update)(staged.pack(state), shard_batch(mesh, batch), cases.KEY)
    helpers.assert_updates_agree(jax.device_get(expected), jax.device_get(staged.unpack(came)), 5e-5)


def test_stages_write_in_place_and_do_no_work_of_other_kinds():
    """First, middle and last stages share a program; XLA would copy weights, or have each device learn all kinds'."""
    width, batch = 48, {'image': np.zeros((16, 20), np.float32), 'label': np.zeros(16, int)}
    model = rlra_jax.nn.ResidualMLP(width=width, depth=16, gap=2)
    variables = jax.eval_shape(model.init, cases.KEY, batch['image'])
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='kp')
    rates = optax.sgd(0.1), optax.sgd(0.1)
    staged = apart.stage_step(model, wiring, make_mesh(stage=8), variables, batch['image'], *rates)
    state = jax.eval_shape(staged.init, cases.KEY, model.init(cases.KEY, batch['image']), batch)
    text = jax.jit(staged.update, donate_argnums=0).lower(state, batch, cases.KEY).compile().as_text()
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
    state = plain.init(cases.KEY, variables, batch)
    staged = apart.stage_step(model, wiring, make_mesh(stage=2, data=4), variables, batch['image'], *rates, beta=0.5)
    expected, _ = jax.jit(plain.update)(state, batch, cases.KEY)
    came, _ = jax.jit(staged.update)(staged.pack(state), batch, cases.KEY)
    helpers.assert_updates_agree(expected, jax.device_get(staged.unpack(came)))


@full
def test_delayed_steps_of_one_stage_are_exact():
    """There is nothing to wait for; mirrored steps and all."""
    model, wiring, variables, batch, options, _, state, expected, _ = cases.case('mlp', 'mirror')
    mesh = make_mesh(data=8)
    staged = apart.stage_step(model, wiring, mesh, variables, batch['image'], *cases.RATES, **options)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), batch)
    keys = jnp.stack([jax.random.key(i) for i in range(5)])
    came, _ = jax.jit(staged.delayed)(staged.pack(state), many, keys)
    helpers.assert_updates_agree(expected, jax.device_get(staged.unpack(came)))


def test_devices_of_a_stage_share_a_batch():
    model, variables, batch = helpers.make_mlp(depth=2)
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule='kp')
    staged = apart.stage_step(model, wiring, make_mesh(data=4, stage=2), variables, batch['image'], *cases.RATES)
    state = jax.eval_shape(staged.init, cases.KEY, variables, batch)
    (shares,) = (
        [var.aval.shape[:2] for var in eqn.params['jaxpr'].invars]
        for eqn in jax.make_jaxpr(staged.update)(state, batch, cases.KEY).eqns
        if eqn.primitive.name == 'shard_map'
    )
    assert (1, 3) in shares  # of one batch of 12
    assert (1, 12) not in shares


def test_what_stages_refuse():
    model, variables, batch = helpers.make_mlp(depth=2)
    wiring = helpers.make_wiring(model, batch['image'], 'direct', rule=rlra_jax.Mirror(antithetic=False))
    mesh = make_mesh(data=4, stage=2)
    options = {'microbatches': 2}
    staged = apart.stage_step(model, wiring, mesh, variables, batch['image'], *cases.RATES, **options)
    with pytest.raises(ValueError, match='a multiple of data x microbatches = 8; got 12'):
        staged.update(None, batch, cases.KEY)
    with pytest.raises(ValueError, match='one-sided noisy passes do not go with delayed updates'):
        staged.delayed(None, jax.tree.map(lambda leaf: leaf[None], batch), cases.KEY[None])
