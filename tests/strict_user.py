"""A user's program, which mypy checks as strictly as it can (`make lint`; pyproject.toml has the options).

What `assert_type` names is what the package's public signatures say: none of it is Any.
"""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import rlra_jax
from rlra_jax import parallel
from rlra_jax.types import Batch, GivenBatch


def squared(outputs: jax.Array, batch: Batch) -> jax.Array:
    """A loss of one's own."""
    return jnp.square(outputs - jax.nn.one_hot(batch['label'], 10)).sum(axis=-1)


def main() -> float:
    """The loss after some steps."""
    batch: GivenBatch = {'image': np.ones((8, 4), np.float32), 'label': np.arange(8) % 2}
    net = assert_type(rlra_jax.regions(rlra_jax.nn.MLP(widths=(6, 6), classes=10), batch), rlra_jax.Net)
    assert_type(net[0], rlra_jax.Region)
    assert_type(net[0].shape, tuple[int, ...])
    wiring = assert_type(rlra_jax.wire_blocks(net, gap=2, rule=rlra_jax.Mirror(every=2)), rlra_jax.Wiring)
    assert_type(wiring.level_of, dict[str, int])
    options = rlra_jax.Options(beta=0.1, kappa={'hidden_1': 0.5})
    update = assert_type(rlra_jax.update_fn(net, wiring, options, loss=squared), rlra_jax.Learner)
    weights, state = update.init(jax.random.key(0))
    assert_type(state, rlra_jax.State)
    _, state, aux = update(weights, state, batch, jax.random.key(1))
    assert_type(aux.loss, jax.Array)
    assert_type(rlra_jax.LEARNERS['feedback_alignment'](net), rlra_jax.Learner)

    mesh = assert_type(parallel.make_mesh(data=1, devices=jax.devices()[:1]), Mesh)
    step = assert_type(rlra_jax.make_train_step(update, rlra_jax.optimizers(optax.sgd(0.1))), rlra_jax.TrainStep)
    trained = assert_type(parallel.replicate(mesh, step.init(jax.random.key(0))), rlra_jax.TrainState)
    shared = assert_type(parallel.shard_batch(mesh, batch), Batch)
    for i in range(3):
        trained, aux = step.update(trained, shared, jax.random.key(i))
    return float(aux.loss)


if __name__ == '__main__':
    print(main())
