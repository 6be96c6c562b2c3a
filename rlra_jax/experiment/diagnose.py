"""When training goes wrong: where a loss stopped being finite, and which parameters do not learn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.capture import forward
from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.epoch import Examples, Run, batch_at, epoch_keys, epoch_order, learn, one_seed
from rlra_jax.train_step import TrainState


class NonFiniteError(RuntimeError):
    """A loss became NaN or infinite; the message names seed, epoch, step and the first region."""


def explain(
    experiment: Experiment,
    before: Run,
    splits: tuple[Examples, Examples],
    *,
    bad_step: int,
    seed: int,
    index: int,
    epoch: int,
) -> NonFiniteError:
    """Replays an epoch up to its first step with a non-finite loss, and looks at that step's regions and synapses.

    Args:
      experiment: the run's model and step.
      before: all seeds' Run at the start of the epoch.
      splits: the training and the validation split.
      bad_step: the step, from 0; steps_per_epoch means the validation after the last step.
      seed: the seed that failed.
      index: its place among the seeds.
      epoch: the epoch's number, from 1.
    """
    train, val = splits
    steps, size = experiment.steps_per_epoch, experiment.example['label'].shape[0]
    order = epoch_order(jnp.int32(seed), jnp.int32(epoch), train.label.shape[0], steps, size)
    keys = jax.random.split(epoch_keys(jnp.int32(seed), jnp.int32(epoch))[1], steps)

    @jax.jit
    def replay(state: TrainState, train: Examples) -> TrainState:
        def body(i, state):
            return learn(experiment, experiment.step.update, state, batch_at(train, order[i]), keys[i])[0]

        return jax.lax.fori_loop(0, bad_step, body, state)

    state = replay(one_seed(before, index).state, train)
    validating = bad_step == steps
    image = batch_at(val, jnp.arange(val.label.shape[0])) if validating else batch_at(train, order[bad_step])
    h = forward(experiment.model, state.variables, image['image']).h
    synapses = {_path(path): E for path, E in jax.tree.leaves_with_path(state.feedback.synapses)}
    place = (
        f'in the validation after epoch {epoch}'
        if validating
        else f'at step {bad_step + 1} of {steps} in epoch {epoch}'
    )
    return NonFiniteError(
        f'the loss of seed {seed} is not finite {place}: {_blame(h, synapses)}. What was written before this epoch is '
        'kept. Try a lower learning rate (of the synapse optimizer, if synapses are named), a `radius`, or bounded '
        'activations.'
    )


def _blame(h: dict[str, Any], synapses: dict[str, Any]) -> str:
    bad = {
        what: [n for n, v in part.items() if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(v))]
        for what, part in (('h', h), ('E', synapses))
    }
    if bad['E']:
        return f'the error synapses {bad["E"]} are not finite' + (f', and region {bad["h"][0]!r}' if bad['h'] else '')
    if bad['h']:
        return f'region {bad["h"][0]!r} is the first that is not'
    largest = max(h, key=lambda name: float(jnp.abs(h[name]).max()))
    return f'every region still is in a replay, so numbers are at the edge; the largest are in region {largest!r}'


def unmoved(still: Any) -> list[str]:
    """The parameters that did not move in an epoch for some seed; `still` is EpochMetrics.still, seeds leading."""
    leaves = jax.tree.leaves_with_path(still)
    return [_path(path) for path, flags in leaves if np.any(flags)]


def _path(path: Any) -> str:
    """Names of dictionary entries along a path; the recursion level goes without saying."""
    return '/'.join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
