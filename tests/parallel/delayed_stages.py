"""Stages with delayed updates. Run by test_devices.py in a process with 8 simulated devices; not collected alone."""

import apart
import delayed_oracle
import helpers
import jax
import numpy as np
import optax
import pytest

import rlra_jax
from rlra_jax.parallel.mesh import make_mesh
from rlra_jax.recursion.options import Options
from rlra_jax.rules import noisy_passes

KEY = jax.random.key(1)
full = pytest.mark.full


@pytest.mark.parametrize('rule', [pytest.param('kp', marks=full), 'mirror'])
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
    staged = apart.stage_step(
        model, wiring, mesh, variables, x, *map(optax.sgd, rates), microbatches=microbatches, synapse_std=0.5, beta=0.5
    )
    start = staged.init(KEY, variables, batches[0])
    kernels, biases = helpers.layers(variables['params'])
    synapses = helpers.by_layer(staged.unpack(start).weights['synapses'])
    packing = apart.packing(model, wiring, x, options=Options(), stages=sizes['stage'])
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
        noise=_noise(wiring, apart.sites(model, x), keys) if rule == 'mirror' else None,
    )
    helpers.assert_updates_agree(logits, np.asarray(aux.outputs), 5e-5)
    after = staged.unpack(came)
    found = helpers.by_layer(after.weights['synapses'])
    helpers.assert_updates_agree(
        expected, [*helpers.layers(after.variables['params']), [found[layer] for layer in sorted(found)]], 5e-5
    )
    assert after.state.memory['step'] == 5


def _noise(wiring, regions, keys):
    """What every step adds to the activity of each hidden region [K, B, n], in forward order."""
    steps = []
    for key in keys:
        (_, outer), *_ = noisy_passes.passes(wiring, {r.name: r.shape for r in regions}, jax.random.split(key, 3)[2])
        std = rlra_jax.Mirror().std
        steps.append([noisy_passes.draw(outer[r.name], r.shape, np.float32, std) for r in regions[:-1]])
    return [np.stack(layer).astype(np.float64) for layer in zip(*steps, strict=True)]


@full
def test_delayed_mirrors_are_those_of_plain_steps_while_weights_stand_still():
    """No update is missed then, so whatever the noise does on its way up the stages shows."""
    model, variables, _ = helpers.make_mlp(depth=8)
    batches = [helpers.make_batch(16, seed=seed) for seed in range(5)]
    wiring = helpers.make_wiring(model, batches[0]['image'], 'blocks', rule=rlra_jax.Mirror(every=2))
    options = {'synapse_std': 0.5, 'beta': 0.5}
    rates, keys = (optax.sgd(0.0), optax.sgd(0.5)), jax.random.split(KEY, 5)
    learner = apart.rec_lra(model, batches[0]['image'], wiring=wiring, **options)
    plain = apart.make_train_step(learner, *rates)
    start = expected = plain.init(KEY, variables, batches[0])
    for batch, key in zip(batches, keys, strict=True):
        expected, _ = jax.jit(plain.update)(expected, batch, key)
    mesh = make_mesh(data=2, stage=4)
    staged = apart.stage_step(model, wiring, mesh, variables, batches[0]['image'], *rates, microbatches=2, **options)
    many = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *batches)
    for bad in ((many, keys[0]), (batches[0], keys)):
        with pytest.raises(ValueError, match='batches and keys must be K of each along their first axis; got'):
            staged.delayed(staged.pack(start), *bad)
    came, _ = jax.jit(staged.delayed)(staged.pack(start), many, keys)
    came = jax.device_get(staged.unpack(came))
    helpers.assert_updates_agree(expected.weights['synapses'], came.weights['synapses'])
    learnt = jax.tree.map(lambda a, b: float(abs(a - b).max()), start.weights['synapses'], came.weights['synapses'])
    assert min(jax.tree.leaves(learnt)) > 0.01


@full
def test_delayed_steps_learn_digits():
    from rlra_jax.experiment.data import load

    split = load('digits').train
    image, label = np.asarray(split.image, np.float32).reshape(len(split.label), -1) / 16, np.asarray(split.label)
    model = rlra_jax.nn.MLP(widths=(64,) * 4, init_std=0.15)  # the highest is in the output's stage
    variables = dict(model.init(KEY, image[:32]))
    wiring = rlra_jax.wire_direct(apart.sites(model, image[:32]), rule=rlra_jax.Mirror())
    rates = optax.sgd(0.5), optax.sgd(0.1)
    staged = apart.stage_step(model, wiring, make_mesh(data=2, stage=4), variables, image[:32], *rates, normalise=True)
    state = staged.init(KEY, variables, {'image': image[:32], 'label': label[:32]})
    delayed = jax.jit(staged.delayed, donate_argnums=0)
    for epoch in range(20):
        order = np.random.default_rng(epoch).permutation(len(label))[: len(label) // 32 * 32].reshape(-1, 32)
        keys = jax.random.split(jax.random.key(epoch), len(order))
        state, aux = delayed(state, {'image': image[order], 'label': label[order]}, keys)
    assert float((aux.outputs.argmax(axis=-1) != label[order]).mean()) < 0.1
