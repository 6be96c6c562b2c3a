import dataclasses
import inspect

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax.parallel.dissect import dissect
from rlra_jax.parallel.setting import setting

KEY = jax.random.key(1)


class Bent(nn.Module):
    """The output reads squares of activities, so that an error's way back depends on these."""

    @nn.compact
    def __call__(self, x):
        z, y = x.reshape(len(x), -1), 0
        for i in range(1, 5):
            z = rlra_jax.Site(jnp.tanh, name=f'hidden_{i}')(nn.Dense(6, name=f'dense_{i}')(z))
            y = y + nn.Dense(4, name=f'read_{i}')(z**2)
        return y


def case(name):
    """(model, variables, batch, wiring, options) with every option that a block must get right."""
    options = {'radius': 0.5, 'alpha': {'hidden_3': 0.9}, 'kappa': 0.7, 'input_noise': 0.1}
    options['surrogate'] = jnp.sin
    if name in ('group', 'batch'):
        model, variables, batch, train_kwargs = helpers.make_four_stages(name)
        kind = 'pooled' if name == 'group' else 'by_shape'
        wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule=rlra_jax.Mirror(antithetic=False), kind=kind)
        options = {'train_kwargs': train_kwargs, 'beta': 0.5}
        return model, variables, batch, wiring, options
    if name == 'modules':  # normalised over the batch, with skips from what enters a block
        _, _, batch, train_kwargs = helpers.make_four_stages('batch')
        model = rlra_jax.nn.ResNet18(classes=4, width=4, blocks=(2, 1), phi=jnp.tanh)
        wiring = rlra_jax.wire_modules(apart.sites(model, batch['image'], train_kwargs=train_kwargs))
        variables = dict(jax.jit(model.init)(KEY, batch['image']))
        return model, variables, batch, wiring, {'train_kwargs': train_kwargs, 'beta': 0.5}
    if name == 'overlap past what is not read':
        return *helpers.make_skips(blocks=4, overlap=1, read=[1]), {'beta': 0.5}
    if name == 'rest beside mirrors':
        _, _, batch, _ = helpers.make_skips(blocks=4)
        plain = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=6, depth=8, gap=2, classes=4), batch)
        net = rlra_jax.nn.with_readouts(plain, ['hidden_4'])
        wiring = rlra_jax.wire_modules(net, block=lambda name: (int(name[7:]) + 1) // 2, rest=rlra_jax.Mirror())
        return net.model, helpers.filled(net.variable_shapes(), 0.5), batch, wiring, {'beta': 0.5}
    if name.endswith('readouts'):
        return *helpers.make_skips(rule='mirror' if name == 'noisy readouts' else 'kp'), {'beta': 0.5}
    if name == 'rest of squares':
        net = rlra_jax.regions(Bent(), batch := helpers.make_batch(16))
        along, rest = rlra_jax.KolenPollack(), rlra_jax.Mirror(antithetic=False)
        wiring = rlra_jax.wire_modules(net, block=lambda name: name, rule=along, rest=rest)
        return net.model, helpers.filled(net.variable_shapes(), 0.5), batch, wiring, {'beta': 0.5}
    if name.startswith('rest'):
        rest = rlra_jax.Mirror(every=1 if name == 'rest' else 2, antithetic=name == 'rest')
        return *helpers.make_skips(blocks=5, overlap=int(name != 'rest'), rest=rest), {'beta': 0.5}
    if name == 'overlap':  # four equal blocks between the first and the last
        return *helpers.make_skips(blocks=6, overlap=1), {'beta': 0.5, 'alpha': 0.9}
    if name in ('resnet', 'presnet', 'encoder'):
        return *helpers.make_deep(name), {'beta': 0.5}
    plain, mirror = rlra_jax.KolenPollack(), rlra_jax.Mirror(every=1 if name == 'passes' else 2)
    rule, gap, wired = {'plain': (plain, None, 'direct')}.get(name, (mirror, 2, 'blocks'))
    model, variables, batch = helpers.make_mlp(depth=9, gap=gap)
    if name == 'skip':  # the first block has a skip within
        regions = apart.sites(model, batch['image'])
        wiring = rlra_jax.wire_modules(regions, block=lambda name: max(4, int(name[7:]) + 1 & ~1), rule=rule)
        assert {'hidden_4->hidden_2', 'hidden_4->hidden_3'} <= {e.name for e in wiring.edges if e.kind.follows}
        return model, variables, batch, wiring, options
    if name == 'passes':  # two within the blocks, where an edge spans a source; the last block's first hears the output
        pairs = [('output', 4), (4, 3), (3, 2), (4, 1), ('output', 9), (9, 8), (8, 7), (7, 6), (6, 5), ('output', 5)]
        edges = [helpers.edge(f'hidden_{j}' if j != 'output' else j, f'hidden_{i}', rule=rule) for j, i in pairs]
        wiring = rlra_jax.wire(apart.sites(model, batch['image']), edges)
        return model, variables, batch, wiring, {'normalise': True}
    return model, variables, batch, helpers.make_wiring(model, batch['image'], wired, rule=rule), options


def moved(tree):
    return [np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree)]


CASES = (
    'residual',
    'passes',
    'plain',
    'group',
    'batch',
    'modules',
    'resnet',
    'presnet',
    'encoder',
    'readouts',
    'noisy readouts',
    'overlap',
    'rest',
    'rest and overlap',
    'rest of squares',
    'overlap past what is not read',
    'rest beside mirrors',
)


@pytest.mark.parametrize('name', helpers.quick(CASES, 'passes', 'readouts', 'rest and overlap', *CASES[-2:]))
def test_emits_the_updates_of_the_plain_step(name):
    model, variables, batch, wiring, options = case(name)
    kwargs = {key: options[key] for key in ('train_kwargs',) if key in options}
    kwargs['std'] = 0.5  # small errors would cancel in float32
    feedback = jax.jit(lambda: apart.init_feedback(KEY, model, wiring, variables, batch['image'], **kwargs))()
    plain, streamed = (
        jax.jit(make(model, wiring, **options))(variables, feedback, batch, KEY)
        for make in (apart.update_fn, apart.stream_update_fn)
    )
    tolerance = 1e-4 if name == 'modules' else 2e-5  # errors that a normalisation has passed are small
    helpers.assert_updates_agree(plain[0], streamed[0], tolerance)
    params, synapses = streamed[0]
    assert all(moved(params))
    assert all(any(moved(E)) for level in synapses for E in level.values())  # parts may lie on no edge's way
    helpers.assert_updates_agree(plain[1:], streamed[1:])  # memory, loss, error, logits, statistics, discrepancy


@pytest.mark.parametrize(
    'name',
    helpers.quick(
        ['residual', 'skip', 'batch', 'modules', 'readouts', 'overlap', 'rest and overlap'], 'residual', 'overlap'
    ),
)
def test_five_steps_in_place_equal_five_plain_ones(name):
    model, variables, batch, wiring, options = case(name)
    options |= {'beta': 0.5, 'synapse_std': 0.5}  # small errors of norm biases would cancel in float32
    paths = optax.sgd(0.03, momentum=0.5) if 'rest' in name else None  # the weights' would do; this tells them apart
    rates = optax.sgd(0.05), optax.sgd(0.1, momentum=0.9), paths
    learner = apart.rec_lra(model, batch['image'], wiring=wiring, **options)
    plain = apart.make_train_step(learner, *rates)
    streamed = apart.stream_step(model, wiring, variables, batch['image'], *rates, **options)
    state, packed = (jax.jit(step.init)(KEY, variables, batch) for step in (plain, streamed))
    start = streamed.unpack(packed)  # stays as it is, though packed is donated
    helpers.assert_updates_agree(state, start, 0)
    update, packed_update = jax.jit(plain.update), jax.jit(streamed.update, donate_argnums=0)
    for i in range(5):
        state, _ = update(state, batch, jax.random.key(i))
        packed, _ = packed_update(packed, batch, jax.random.key(i))
    tolerance = 1e-3 if name == 'modules' else 2e-5  # errors that a normalisation has passed are small
    helpers.assert_updates_agree(state, streamed.unpack(packed), tolerance)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(start))
    helpers.assert_updates_agree(state, streamed.unpack(streamed.pack(state)), 0)


@pytest.mark.parametrize('mode', ['level_update_fn', 'stage_step', 'stream_step', 'stream_update_fn'])
def test_what_is_not_told_is_as_in_the_plain_update(mode):
    plain, own = (
        {name: p.default for name, p in inspect.signature(f).parameters.items()}
        for f in (rlra_jax.update_fn, getattr(rlra_jax.parallel, mode))
    )
    for name in ('options', 'loss', 'synapse_std', 'allow'):
        assert own[name] == plain[name]
    assert own.get('microbatches', 1) == 1


@pytest.mark.parametrize('rule', [rlra_jax.KolenPollack(), rlra_jax.Mirror()], ids=['kp', 'mirror'])
def test_a_float32_model_where_float64_is_allowed(rule):
    with jax.enable_x64(True):
        batch = helpers.make_batch(4)
        batch = {**batch, 'image': batch['image'].astype(jnp.float32)}
        net = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=8, depth=4, gap=2), batch)
        step = rlra_jax.parallel.stream_step(
            net, rlra_jax.wire_blocks(net, gap=2, rule=rule), rlra_jax.optimizers(optax.sgd(0.1))
        )
        state = jax.eval_shape(step.init, KEY)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.runs)} == {jnp.dtype(jnp.float32)}
        jax.eval_shape(step.update, state, batch, KEY)


def test_edges_that_share_one_synapse():
    net = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=8, depth=4, gap=2), helpers.make_batch(4))
    first, *others = rlra_jax.wire_direct(net).edges
    edges = [dataclasses.replace(first, share=0), *others]
    with pytest.raises(ValueError, match=r"one of edges with an E of their own \(no share\); got \['output->hidden_1'"):
        rlra_jax.parallel.stream_step(net, rlra_jax.wire(net, edges), rlra_jax.optimizers(optax.sgd(0.1)))


@pytest.mark.parametrize(
    ('rule', 'rest', 'signs'),
    [
        (rlra_jax.Mirror(), None, (1.0, -1.0)),
        (rlra_jax.Mirror(antithetic=False), None, (1.0,)),
        (rlra_jax.KolenPollack(), rlra_jax.Mirror(), (1.0, -1.0, 0.0)),
    ],
)
def test_signs_of_the_noise_in_each_pass(rule, rest, signs):
    net = rlra_jax.regions(rlra_jax.nn.ResidualMLP(width=8, depth=4, gap=2), helpers.make_batch(4))
    wiring = rlra_jax.wire_modules(net, block=lambda name: name[-1] > '2', rule=rule, rest=rest, overlap=bool(rest))
    parts = dissect(net, net.variable_shapes(), net.example['image'], KEY)
    assert setting(parts, rlra_jax.Options(), wiring, KEY, 4).signs == signs


def test_outputs_are_wide_whatever_type_the_model_has():
    model, variables, batch = helpers.make_mlp(depth=4, gap=2, dtype=jnp.bfloat16)
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='kp')
    feedback = apart.init_feedback(KEY, model, wiring, variables, batch['image'])
    plain, streamed = (
        jax.eval_shape(make(model, wiring), variables, feedback, batch, KEY)
        for make in (apart.update_fn, apart.stream_update_fn)
    )
    assert jax.tree.map(lambda leaf: leaf.dtype, plain) == jax.tree.map(lambda leaf: leaf.dtype, streamed)


def temp_bytes(blocks, overlap):
    if overlap:
        model, variables, batch, wiring = helpers.make_skips(blocks, size=512, overlap=1)
        x = batch['image']
    else:
        model = rlra_jax.nn.ResidualMLP(width=32, depth=2 * blocks, gap=2)
        x = jnp.zeros((512, 8))
        batch = {'image': x, 'label': jnp.zeros(512, jnp.int32)}
        wiring = helpers.make_wiring(model, x, 'blocks', rule='kp')
        variables = model.init(KEY, x)
    step = apart.stream_step(model, wiring, variables, x, optax.adam(1e-3))
    state = jax.eval_shape(lambda: step.init(KEY, variables, batch))
    compiled = jax.jit(step.update, donate_argnums=0).lower(state, batch, KEY).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('overlap', helpers.quick((False, True), True))
def test_memory_does_not_grow_with_depth(overlap):
    assert temp_bytes(16, overlap) < 1.02 * temp_bytes(4, overlap)


def test_a_wiring_with_edges_across_all_blocks():
    model, variables, batch = helpers.make_mlp(depth=4)
    wiring = helpers.make_wiring(model, batch['image'], 'chain')
    with pytest.raises(ValueError, match=r'(?s)one block.*behind hidden_2: edge hidden_3->hidden_2'):
        apart.stream_step(model, wiring, variables, batch['image'], optax.sgd(0.1))


def test_an_optimizer_that_needs_the_whole_tree():
    model, variables, batch, wiring, _ = case('plain')
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"(?s)optimizer must update .* 'params dense_1/kernel' also needs those of"):
        apart.stream_step(model, wiring, variables, batch['image'], clipped)
    with pytest.raises(ValueError, match=r"(?s)optimizer must update .* 'synapses "):
        apart.stream_step(model, wiring, variables, batch['image'], optax.sgd(0.1), clipped)


def by_name(params):
    return jax.tree_util.tree_map_with_path(lambda path, leaf: path[-1].key, params)


@pytest.mark.parametrize(
    ('optimizer', 'message'),
    [
        (optax.multi_transform({'kernel': optax.sgd(0.1), 'bias': optax.sgd(0.2)}, by_name), 'the whole tree'),
        (optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(0.1)), 'something else to'),
        (
            optax.adamw(0.1, mask={'params': jax.tree.map(jnp.ndim, case('plain')[1]['params']), 'synapses': False}),
            'cannot be applied to .* alone',
        ),
        (optax.contrib.dadapt_adamw(0.1), 'must update each block from its own gradients'),
        (optax.polyak_sgd(), 'gets each block by itself, and no loss: .*value'),
        (optax.adamw(0.1, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)), None),
    ],
)
def test_an_optimizer_that_does_something_else_to_a_block_alone(optimizer, message):
    model, variables, batch, wiring, _ = case('plain')
    if message is None:
        apart.stream_step(model, wiring, variables, batch['image'], optimizer)
        return
    with pytest.raises(ValueError, match=message):
        apart.stream_step(model, wiring, variables, batch['image'], optimizer)


def test_a_constant_that_several_blocks_read():
    class Shifted(nn.Module):
        @nn.compact
        def __call__(self, x):
            shift = self.variable('constants', 'shift', lambda: jnp.linspace(-1, 1, 6))
            for i in range(3):
                x = rlra_jax.Site(jnp.tanh, name=f'act_{i}')(nn.Dense(6)(x) + shift.value)
            return nn.Dense(4)(x)

    net = rlra_jax.regions(Shifted(), helpers.make_batch())
    with pytest.raises(ValueError, match=r"\['constants/shift'\] are read by several blocks"):
        rlra_jax.parallel.stream_update_fn(net, rlra_jax.wire_direct(net))


def test_a_batch_of_another_size_than_the_example():
    model, variables, batch = helpers.make_mlp(depth=4, gap=2)
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='kp')
    batch = {**batch, 'image': batch['image'][..., None]}  # which the model flattens, to the size of the batch
    smaller = {name: leaf[:5] for name, leaf in batch.items()}
    key, after = jax.random.key(0), []
    for example in (batch, smaller):
        step = apart.stream_step(model, wiring, variables, example['image'], optax.sgd(0.1))
        state, aux = jax.jit(step.update)(step.init(key, variables, smaller), smaller, key)
        after.append((step.unpack(state), aux))
    jax.tree.map(np.testing.assert_array_equal, *after)


def test_a_mapping_of_one_output():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x):
            return {'y': nn.Dense(4)(rlra_jax.Site(jnp.tanh)(nn.Dense(6)(x)))}

    net = rlra_jax.regions(Named(), helpers.make_batch())
    with pytest.raises(ValueError, match="one array, not a mapping, in stream and stage mode; got 'output/y'"):
        rlra_jax.parallel.stream_update_fn(net, rlra_jax.wire_direct(net))
