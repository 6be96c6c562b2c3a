import time

import chex
import jax
import jax.numpy as jnp
import pytest

from rlra_jax.experiment.checkpoint import Checkpoints, Moments
from rlra_jax.experiment.epoch import Moment, Run
from rlra_jax.train_step import TrainState
from rlra_jax.types import State


def make_run():
    """An identity synapse is an empty tree; Orbax refuses arrays of size zero."""
    synapses = {'output->a': jnp.ones((4, 3))}, {'a->b': ()}
    weights = {'params': {'w': jnp.arange(3.0)}, 'synapses': synapses}
    state = TrainState(weights, State({}, {'step': jnp.int32(7)}), ())
    return Run(state, {'params': {'w': jnp.ones(3)}}, jnp.float32(0.5), jnp.int32(2))


def test_synapses_without_parameters_are_saved_and_restored(tmp_path):
    run = make_run()
    saved = Checkpoints(tmp_path)
    saved.save(3, run)
    saved.close()
    reader = Checkpoints(tmp_path, read_only=True)
    chex.assert_trees_all_equal(reader.restore(jax.tree.map(jnp.zeros_like, run)), run)
    reader.close()


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = make_run()
    saved = Checkpoints(tmp_path)
    saved.save(3, run)
    saved.close()
    for file in (tmp_path / '3' / 'last').rglob('*'):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    reader = Checkpoints(tmp_path, read_only=True)
    with pytest.raises(ValueError, match=f"the checkpoint {tmp_path}/3 cannot be read .* remove the run's folder"):
        reader.restore(run)
    reader.close()


def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError('No space left on device')

    saved = Checkpoints(tmp_path)
    monkeypatch.setattr(saved._manager, 'save', full)
    with pytest.raises(OSError, match=rf'cannot be written into {tmp_path} \(No space left .*the same command'):
        saved.save(3, make_run())
    saved.close()


def test_a_reader_leaves_alone_what_is_being_written(tmp_path):
    """Orbax clears away what looks half written, in the background: that of a run that is still training, too."""
    half_written = tmp_path / '5.orbax-checkpoint-tmp'
    half_written.mkdir()
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.epoch == 0
    time.sleep(0.5)  # as long as it takes Orbax, several times over
    assert half_written.exists()
    reader.close()
    writer = Checkpoints(tmp_path)
    writer.save(3, make_run())
    writer.close()
    assert not half_written.exists()


def test_no_moment_is_due_where_a_run_is(tmp_path):
    moments = Moments(tmp_path, every=7, steps=7)
    assert not any(map(moments.due, range(1, 8)))
    moments.close()


def test_moments_belong_to_an_epoch(tmp_path):
    """The last of an epoch goes on; one of a later epoch, whose first Run was lost, gives way."""
    weights = {'params': {'w': jnp.arange(3.0)}, 'synapses': ()}
    state = TrainState(weights, State({}, {'step': jnp.int32(0)}), ())
    moment = Moment(state, jnp.ones(7), jnp.ones(7), jnp.float32(9.5))
    like = jax.tree.map(jnp.zeros_like, moment)
    moments = Moments(tmp_path, every=3, steps=7)
    assert [done for done in range(1, 8) if moments.due(done)] == [3, 6]
    chex.assert_trees_all_equal(moments.restore(1, like), (0, like))
    for done in (3, 6):
        moments.save(3, done, moment)
    moments.close()
    moments = Moments(tmp_path, every=3, steps=7)
    chex.assert_trees_all_equal(moments.restore(4, like), (0, like))
    chex.assert_trees_all_equal(moments.restore(3, like), (6, moment))
    chex.assert_trees_all_equal(moments.restore(2, like), (0, like))
    moments.save(2, 3, moment)
    moments.close()
    chex.assert_trees_all_equal(Moments(tmp_path, every=3, steps=7).restore(2, like), (3, moment))
