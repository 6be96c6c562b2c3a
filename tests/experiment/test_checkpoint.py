import chex
import jax
import jax.numpy as jnp

from rlra_jax.experiment.checkpoint import Checkpoints
from rlra_jax.experiment.epoch import Run
from rlra_jax.train_step import TrainState
from rlra_jax.types import Feedback


def test_synapses_without_parameters_are_saved_and_restored(tmp_path):
    """An identity synapse is an empty tree; Orbax refuses arrays of size zero."""
    feedback = Feedback(({'output->a': jnp.ones((4, 3))}, {'a->b': ()}), {'step': jnp.int32(7)})
    state = TrainState({'params': {'w': jnp.arange(3.0)}}, feedback, (), ())
    run = Run(state, {'params': {'w': jnp.ones(3)}}, jnp.float32(0.5), jnp.int32(2))
    saved = Checkpoints(tmp_path)
    saved.save(3, run)
    saved.close()
    restored = Checkpoints(tmp_path).restore(jax.tree.map(jnp.zeros_like, run))
    chex.assert_trees_all_equal(restored, run)
