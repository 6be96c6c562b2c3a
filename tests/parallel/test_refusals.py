"""What parallel steps refuse before anything is computed."""

import helpers
import jax
import jax.numpy as jnp
import optax
import pytest

import rlra_jax
from rlra_jax.parallel import level_update_fn, make_mesh, stage_step, stream_step, stream_update_fn

KEY = jax.random.key(1)
SGD = rlra_jax.optimizers(optax.sgd(0.1))


def make_net(model=None):
    batch = helpers.make_batch()
    return rlra_jax.regions(model or rlra_jax.nn.MLP(widths=(6,) * 4, classes=4), batch), batch


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def test_random_numbers_in_a_pass_that_is_split():
    net, batch = make_net(helpers.Dropping())
    with pytest.raises(ValueError, match=r"no region may need random numbers \(in \['hidden_1', "):
        stage_step(net, rlra_jax.wire_direct, one_device(), SGD)
    update = level_update_fn(net, rlra_jax.wire_direct, one_device())
    with pytest.raises(ValueError, match=r'level mode splits the batch, .* random numbers'):
        jax.eval_shape(update, *jax.eval_shape(update.init, KEY), batch, KEY)


def test_stages_with_an_optimizer_of_the_whole_tree():
    clipped = rlra_jax.optimizers(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)))
    with pytest.raises(ValueError, match='the optimizer gets each block by itself'):
        stage_step(make_net()[0], rlra_jax.wire_direct, one_device(), clipped)


@pytest.mark.parametrize('mode', ['stream', 'stage', 'delayed', 'update_fn'])
def test_a_batch_that_no_model_reads(mode):
    net, batch = make_net()
    bad = {**batch, 'image': batch['image'].astype(jnp.uint8)}
    if mode == 'update_fn':
        update = stream_update_fn(net, rlra_jax.wire_direct)
        given = (*jax.eval_shape(update.init, KEY), bad, KEY)
    else:
        stages = mode in ('stage', 'delayed')
        step = (
            stage_step(net, rlra_jax.wire_direct, one_device(), SGD)
            if stages
            else stream_step(net, rlra_jax.wire_direct, SGD)
        )
        update = step.delayed if mode == 'delayed' else step.update
        given = jax.eval_shape(step.init, KEY), bad, KEY
        if mode == 'delayed':  # several batches
            given = given[0], *jax.tree.map(lambda leaf: leaf[None], given[1:])
    with pytest.raises(ValueError, match=r"batch\['image'\] must be floating; got uint8"):
        jax.eval_shape(update, *given)
