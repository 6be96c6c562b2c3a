"""Meshes and axes of a user's own making, on eight devices; run by test_devices.py."""

import functools

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rlra_jax
from rlra_jax.experiment.names import RULES

KEY = jax.random.key(1)
TRAIN = {'train_kwargs': {'train': True}}
QUICK = 'difference_target_prop', 'direct_feedback_alignment', 'dx', 'equilibrium_prop', 'mirror', 'weight_mirror'


class ImageNetStyle(nn.Module):
    """Normalises as flax's ImageNet ResNet does, over an axis of devices."""

    axis_name: str | None = 'batch'

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, axis_name=self.axis_name)
        act = rlra_jax.Site.of(jnp.tanh)
        z = act(norm()(nn.Conv(4, (3, 3), use_bias=False)(x)))
        z = act(z + norm()(nn.Conv(4, (3, 3), use_bias=False)(z)))
        return nn.Dense(4)(z.mean(axis=(1, 2)))


def in_shards(update):
    """The update under the user's own shard_map; gradients are summed over devices there, as those of jax.grad."""
    mesh = jax.make_mesh((8,), ('batch',))

    def gradients(variables, feedback, batch, key):
        return update(variables, feedback, batch, key)[0]

    sharded = jax.shard_map(gradients, mesh=mesh, in_specs=(P(), P(), P('batch'), P()), out_specs=P())

    def run(variables, feedback, batch, key):
        placed = jax.device_put(batch, NamedSharding(mesh, P('batch')))
        return jax.device_get(jax.tree.map(lambda g: g / 8, jax.jit(sharded)(variables, feedback, placed, key)))

    return run


def test_a_model_that_names_an_axis_of_devices():
    x = jax.random.normal(KEY, (16, 6, 6, 2))
    batch = {**helpers.make_batch(16), 'image': x}
    updates = []
    for model in (ImageNetStyle(None), ImageNetStyle()):
        regions = apart.sites(model, x, **TRAIN)
        wiring = rlra_jax.wire_reverse(regions, rule=rlra_jax.KolenPollack())
        variables = model.init(KEY, x)
        feedback = apart.init_feedback(KEY, model, wiring, variables, x, std=0.5, **TRAIN)
        updates.append(apart.update_fn(model, wiring, beta=0.5, **TRAIN))
    whole, shared = updates
    expected = jax.jit(whole)(variables, feedback, batch, KEY)[0]
    # Devices add up the statistics of the batch in another order, and errors z - y cancel.
    helpers.assert_updates_agree(expected, in_shards(shared)(variables, feedback, batch, KEY), 5e-4)


def test_mirrors_in_a_shard_map():
    """Each device draws the same noise for its examples."""
    model, variables, batch = helpers.make_mlp()
    batch = helpers.make_batch(16)
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='mirror')
    feedback = apart.init_feedback(KEY, model, wiring, variables, batch['image'], std=0.5)
    update = apart.update_fn(model, wiring, beta=0.5)
    shares = jax.tree.map(lambda leaf: leaf.reshape(8, 2, *leaf.shape[1:]), batch)
    one_by_one = jax.jit(jax.vmap(update, in_axes=(None, None, 0, None)))(variables, feedback, shares, KEY)[0]
    expected = jax.tree.map(lambda g: g.mean(axis=0), one_by_one)
    helpers.assert_updates_agree(expected, in_shards(update)(variables, feedback, batch, KEY))


@pytest.mark.parametrize('learner', [rlra_jax.update_fn, rlra_jax.learners.fa_bp])
def test_parameters_that_lie_along_an_axis(learner):
    model, batch = helpers.Boxed(), helpers.make_batch(16)
    mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=(AxisType.Auto, AxisType.Auto))

    def one(batch):
        update = learner(rlra_jax.regions(model, batch))
        weights, state = update.init(KEY)
        return jax.jit(update)(weights, state, batch, KEY)[0]

    expected = one(batch)
    with jax.set_mesh(mesh):
        came = one(jax.device_put(batch, NamedSharding(mesh, P('data'))))
    assert came['params']['Dense_0']['kernel'].value.sharding.spec == P(None, 'model')
    helpers.assert_updates_agree(jax.device_get(expected), jax.device_get(came), 1e-3)  # small errors cancel


def test_readouts_of_cells_on_explicit_axes():
    """What a region multiplies activities with may be a constant, which lies on no mesh."""
    model = rlra_jax.nn.CNN(widths=(4, 4), strides=(1, 2), classes=4, readout='all', cells=2)
    batch = {'image': jax.random.normal(KEY, (16, 6, 6, 2)), 'label': jnp.arange(16) % 4}
    net = rlra_jax.regions(model, batch)
    update = rlra_jax.update_fn(net, rlra_jax.wire_reverse(net, rule=rlra_jax.Fixed()))
    weights, state = update.init(KEY)
    placed = jax.device_put(batch, NamedSharding(jax.make_mesh((8,), ('data',)), P('data')))
    expected, came = (jax.jit(update)(weights, state, own, KEY)[0] for own in (batch, placed))
    helpers.assert_updates_agree(expected, jax.device_get(came), 1e-4)


@pytest.mark.parametrize('name', helpers.quick([*rlra_jax.LEARNERS, *RULES], *QUICK))
def test_a_batch_on_explicit_axes(name):
    model, variables, _ = helpers.make_mlp()
    batch = helpers.make_batch(16)
    options = {'beta': 0.5, 'synapse_std': 0.5}  # small errors would cancel in float32
    if name in RULES:
        options['wiring'] = helpers.make_wiring(model, batch['image'], 'blocks', rule=name)
        learner = apart.rec_lra(model, batch['image'], **options)
    else:
        learner = apart.make_learner(name, model, batch['image'], **(options if name in ('lra_e', 'rec_lra') else {}))
    placed = jax.device_put(batch, NamedSharding(jax.make_mesh((8,), ('data',)), P('data')))
    update = jax.jit(learner.update)
    expected = update(variables, learner.init(KEY, variables, batch), batch, KEY)
    came = update(variables, learner.init(KEY, variables, placed), placed, KEY)
    helpers.assert_updates_agree(expected, jax.device_get(came), 1e-4)
