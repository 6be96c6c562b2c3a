"""Run by test_devices.py through launch.local_pod: 2 processes x 2 devices against one device of each process."""

import argparse
import dataclasses

import apart
import helpers
import jax
import numpy as np
import optax

import rlra_jax
from rlra_jax.parallel.distributed import join
from rlra_jax.parallel.mesh import make_mesh, own_rows, replicate, shard_batch

parser = argparse.ArgumentParser()
parser.add_argument('--coordinator')
parser.add_argument('--num_processes', type=int)
parser.add_argument('--process_id', type=int)
options = parser.parse_args()
join(options.coordinator, options.num_processes, options.process_id)
assert jax.device_count() == 4
assert jax.local_device_count() == 2

RATES = optax.sgd(0.05), optax.sgd(0.1)
model, variables, _ = helpers.make_mlp(depth=8, gap=2)
batch = jax.device_get(helpers.make_batch(16))
variables = jax.device_get(variables)
edges = helpers.make_wiring(model, batch['image'], 'blocks', rule='kp').edges  # within blocks; the others mirror
edges = [
    dataclasses.replace(edge, rule=rlra_jax.Mirror(every=2)) if edge.source == 'output' else edge for edge in edges
]
wiring = rlra_jax.wire(apart.sites(model, batch['image']), edges)
assert {edge.rule for edge in edges} == {rlra_jax.KolenPollack(), rlra_jax.Mirror(every=2)}
hyper = {'synapse_std': 0.5, 'beta': 0.5}
learner = apart.rec_lra(model, batch['image'], wiring=wiring, **hyper)
step = apart.make_train_step(learner, *RATES)
start = jax.device_get(jax.jit(step.init)(jax.random.key(1), variables, batch))
update = jax.jit(step.update)


def five(update, state, batch):
    for i in range(5):
        state, _ = update(state, batch, jax.random.key(i))
    return state


def check(expected, came):
    """Replicated arrays: every process holds them whole."""
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(came))
    helpers.assert_updates_agree(expected, jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), came))


expected = jax.device_get(five(update, start, batch))
mesh = make_mesh(data=4)
rows = own_rows(mesh, 16)
np.testing.assert_array_equal(rows, 8 * jax.process_index() + np.arange(8))
half = {name: x[rows] for name, x in batch.items()}  # each process's own examples
check(expected, five(update, replicate(mesh, start), shard_batch(mesh, half)))

mesh = make_mesh(data=2, stage=2)
staged = apart.stage_step(model, wiring, mesh, variables, batch['image'], *RATES, microbatches=4, **hyper)
state = five(jax.jit(staged.update), staged.pack(start), shard_batch(mesh, half))
check(expected, jax.jit(staged.unpack, out_shardings=jax.NamedSharding(mesh, jax.P()))(state))
print(f'process {jax.process_index()}: equal')
