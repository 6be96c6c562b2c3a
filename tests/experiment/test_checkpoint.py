import io
import os
import random
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import psutil
import pytest

from rlra_jax.experiment import checkpoint, leaves
from rlra_jax.experiment.checkpoint import Checkpoints, Moments
from rlra_jax.experiment.epoch import Moment, Run
from rlra_jax.train_step import TrainState
from rlra_jax.types import State


def make_run(scale=1.0):
    """An identity synapse is an empty tree; NumPy has no bfloat16."""
    synapses = {'output->a': scale * jnp.ones((4, 3), jnp.bfloat16)}, {'a->b': ()}
    weights = {'params': {'w': scale * jnp.arange(3.0)}, 'synapses': synapses}
    state = TrainState(weights, State({}, {'step': jnp.int32(7)}), ())
    return Run(state, {'params': {'w': scale * jnp.ones(3)}}, jnp.float32(0.5), jnp.int32(2))


LIKE = jax.tree.map(jnp.zeros_like, make_run())


def save(path, *epochs):
    """Runs whose numbers tell their epoch."""
    saved = Checkpoints(path)
    for epoch in epochs:
        saved.save(epoch, make_run(epoch))
    saved.close()


def restored(path, *, read_only=False):
    """The epoch that a folder gives back, after a check of all of the Run's numbers; 0 for none."""
    checkpoints = Checkpoints(path, read_only=read_only)
    run = checkpoints.restore(LIKE)
    checkpoints.close()
    if run is not None:
        chex.assert_trees_all_equal(run, make_run(checkpoints.epoch))
        chex.assert_trees_all_equal_dtypes(run, LIKE)
    return checkpoints.epoch


def test_the_last_few_are_kept(tmp_path):
    assert restored(tmp_path / 'new') == 0
    save(tmp_path, 1, 2, 3, 4, 5)
    assert sorted(os.listdir(tmp_path)) == ['3', '4', '5', 'new']
    assert restored(tmp_path, read_only=True) == 5


def test_a_reader_removes_none(tmp_path):
    """Of older versions, or of a copy that somebody put there."""
    save(tmp_path / 'run', 1, 2, 3)
    save(tmp_path / 'other', 4, 5)
    for number in ('4', '5'):
        (tmp_path / 'other' / number).rename(tmp_path / 'run' / number)
    assert restored(tmp_path / 'run', read_only=True) == 5
    assert sorted(os.listdir(tmp_path / 'run')) == ['1', '2', '3', '4', '5']


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    'emptied': emptied,
    'a file': lambda folder: (shutil.rmtree(folder), folder.touch()),
    'without leaves': lambda folder: (folder / 'leaves.npz').unlink(),
    'cut short': lambda folder: os.truncate(folder / 'leaves.npz', (folder / 'leaves.npz').stat().st_size // 2),
    'a byte short': lambda folder: os.truncate(folder / 'leaves.npz', (folder / 'leaves.npz').stat().st_size - 1),
    'zeros': lambda folder: (folder / 'leaves.npz').write_bytes(bytes((folder / 'leaves.npz').stat().st_size)),
    'no bytes': lambda folder: (folder / 'leaves.npz').write_bytes(b''),
}


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_the_one_before_is_used_and_what_is_broken_is_named_once(tmp_path, caplog, damage):
    save(tmp_path, 1, 2, 3)
    damage(tmp_path / '3')
    for read_only in (True, False):
        caplog.clear()
        assert restored(tmp_path, read_only=read_only) == 2
        assert f'the checkpoint {tmp_path}/3 cannot be read' in caplog.text
    assert sorted(os.listdir(tmp_path)) == ['1', '2', 'broken-3']
    caplog.clear()
    save(tmp_path, 3, 4)
    assert restored(tmp_path) == 4
    assert not caplog.records


def test_a_folder_that_never_was_a_checkpoint_does_no_harm(tmp_path):
    save(tmp_path, 1)
    (tmp_path / '99').mkdir()
    assert restored(tmp_path) == 1
    save(tmp_path, 2, 3, 4, 5)
    assert restored(tmp_path) == 5


def test_any_file_of_a_checkpoint_may_go(tmp_path):
    """What it leaves is as it was, or the one before."""
    save(tmp_path / 'whole', 1, 2)
    files = [path for path in (tmp_path / 'whole' / '2').rglob('*') if path.is_file()]
    used = []
    for file in files:
        copy = tmp_path / 'copy'
        shutil.copytree(tmp_path / 'whole', copy)
        (copy / file.relative_to(tmp_path / 'whole')).unlink()
        used.append(restored(copy))
        shutil.rmtree(copy)
    assert {1, 2} == {*used, 2}


def test_no_flipped_bit_passes(tmp_path):
    """Every byte of a checkpoint, one bit each: what comes back is what was saved, or the checkpoint before."""
    save(tmp_path, 1)
    path = tmp_path / '1' / 'leaves.npz'
    whole, chance, found, run = path.read_bytes(), random.Random(0), 0, jax.device_get(make_run(1))
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            tree, _ = leaves.load(tmp_path / '1', LIKE)
        except Exception:
            found += 1
        else:
            assert all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(run)))
    assert found > len(whole) / 2  # the rest are dates, padding and the like


def test_orbax_reads_what_it_writes(tmp_path):
    """As its own users would."""
    checkpointer, run = ocp.Checkpointer(leaves.Handler()), make_run(3)
    checkpointer.save(tmp_path / '3', args=leaves.Args(run))
    chex.assert_trees_all_equal(checkpointer.restore(tmp_path / '3', args=leaves.Args(LIKE)), jax.device_get(run))
    assert restored(tmp_path) == 3


def test_loading_runs_no_code(tmp_path):
    """NumPy's arrays of objects are pickles."""
    save(tmp_path, 1)
    np.savez(tmp_path / '1' / 'leaves.npz', **{'//versions': np.array([print], dtype=object)})
    with pytest.raises(ValueError, match='allow_pickle=False'):
        leaves.load(tmp_path / '1', LIKE)


def test_where_none_is_whole_nothing_more_than_checkpoints_is_to_be_removed(tmp_path):
    save(tmp_path / 'checkpoints', 1, 2)
    for number in (1, 2):
        emptied(tmp_path / 'checkpoints' / str(number))
    for _ in range(2):  # the same command says the same
        with pytest.raises(
            ValueError, match=rf'no checkpoint in {tmp_path}/checkpoints can be read; remove that folder'
        ):
            restored(tmp_path / 'checkpoints')


def test_what_differs_from_another_model(tmp_path):
    save(tmp_path, 1)
    weights = {**LIKE.state.weights, 'params': {'w': jnp.zeros((3, 2)), 'bias': jnp.zeros(2)}}
    state = LIKE.state._replace(weights=weights)
    other = LIKE._replace(state=state, best=LIKE.best | {'batch_stats': jnp.int32(0)})
    with pytest.raises(leaves.DiffersError) as told:
        Checkpoints(tmp_path).restore(other)
    assert str(told.value).splitlines() == [
        f'{tmp_path}/1 is of another model, learner or optimizer:',
        '  best/batch_stats: nothing there, int32[] here',
        '  state/weights/params/bias: nothing there, float32[2] here',
        '  state/weights/params/w: float32[3] there, float32[3, 2] here',
    ]
    assert sorted(os.listdir(tmp_path)) == ['1']


def test_files_of_another_kind_are_no_damage(tmp_path):
    """Nobody is told to remove a checkpoint that only an older version can read."""
    (tmp_path / '1' / 'best').mkdir(parents=True)
    (tmp_path / '1' / 'best' / 'manifest.ocdbt').touch()
    with pytest.raises(leaves.DiffersError, match='written by an older rlra_jax, in files of another kind'):
        checkpoint.Folder(tmp_path, read_only=True).restore({}, [1])


def test_what_other_versions_wrote_is_told(tmp_path, monkeypatch, caplog):
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, 'versions', lambda: leaves.versions() | {'jax': '99.0'})
    assert restored(tmp_path) == 1
    assert (
        f'the checkpoint {tmp_path}/1 was written by other versions: jax {jax.__version__} there, 99.0 here'
        in caplog.text
    )


def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch):
    """In the background; those before stay."""

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    saved = Checkpoints(tmp_path)
    saved.save(2, make_run(2))
    saved.wait()
    monkeypatch.setattr(np, 'savez', full)
    saved.save(3, make_run(3))
    with pytest.raises(
        OSError, match=rf'{tmp_path} cannot be written \(No space left on device\); once it can, the same'
    ):
        saved.close()
    monkeypatch.undo()
    assert restored(tmp_path) == 2
    assert sorted(os.listdir(tmp_path)) == ['2']


def test_a_checkpoint_is_checked_when_it_is_written(tmp_path, monkeypatch):
    """A disk may take bytes and keep others."""
    savez = np.savez

    def flipped(file, **arrays):
        whole = io.BytesIO()
        savez(whole, **arrays)
        data = bytearray(whole.getvalue())
        data[data.index(np.float32(2).tobytes())] ^= 1
        file.write(data)

    save(tmp_path, 1)
    saved = Checkpoints(tmp_path)
    monkeypatch.setattr(np, 'savez', flipped)
    saved.save(2, make_run(2))
    with pytest.raises(OSError, match=r'cannot be written \(.*\.npy does not read back as it was written'):
        saved.close()
    monkeypatch.undo()
    assert restored(tmp_path) == 1


def test_a_reader_leaves_alone_what_is_being_written(tmp_path):
    for name in ('5.orbax-checkpoint-tmp', '4.orbax-checkpoint-tmp-17'):
        (tmp_path / name).mkdir()
    assert restored(tmp_path, read_only=True) == 0
    assert len(os.listdir(tmp_path)) == 2
    assert restored(tmp_path) == 0
    assert not os.listdir(tmp_path)


def test_a_deletion_cut_short_leaves_nothing_behind(tmp_path, monkeypatch):
    save(tmp_path, 1, 2, 3)
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(type(checkpoints._folder.path), 'rmtree', lambda self: exec('raise KeyboardInterrupt'))
    checkpoints.save(4, make_run(4))
    with pytest.raises(KeyboardInterrupt):
        checkpoints.wait()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ['1.orbax-checkpoint-tmp', '2', '3', '4']
    assert restored(tmp_path) == 4
    assert sorted(os.listdir(tmp_path)) == ['2', '3', '4']


def test_memory_does_not_grow_by_checkpoints(tmp_path):
    """Orbax's own files of arrays cost some 50 kB each."""
    checkpoints, run, process = Checkpoints(tmp_path), make_run(), psutil.Process()
    sizes = []
    for number in range(1, 301):
        checkpoints.save(number, run)
        if number in (100, 300):
            checkpoints.wait()
            sizes.append(process.memory_info().rss)
    checkpoints.close()
    assert sizes[1] - sizes[0] < 4e6


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
    moments = Moments(tmp_path, every=3, steps=7)
    chex.assert_trees_all_equal(moments.restore(2, like), (3, moment))
    moments.close()


def test_a_broken_moment_costs_no_more_than_the_steps_since_the_one_before(tmp_path, caplog):
    weights = {'params': {'w': jnp.arange(3.0)}, 'synapses': ()}
    state = TrainState(weights, State({}, {'step': jnp.int32(0)}), ())
    moment = Moment(state, jnp.ones(7), jnp.ones(7), jnp.float32(9.5))
    moments = Moments(tmp_path, every=2, steps=7)
    for done in (2, 4):
        moments.save(2, done, moment)
    moments.close()
    for broken, left in (('11', 2), ('9', 0)):
        emptied(tmp_path / broken)
        moments = Moments(tmp_path, every=2, steps=7)
        chex.assert_trees_all_equal(moments.restore(2, moment), (left, moment))
        moments.close()
        assert f'the checkpoint {tmp_path}/{broken} cannot be read' in caplog.text
    assert 'the one before is used, if there is one' in caplog.text
