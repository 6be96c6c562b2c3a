"""When training goes wrong: where a loss stopped being finite, and which parameters do not learn."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.epoch import Run, Trainable
from rlra_jax.model.call import call_on
from rlra_jax.model.capture import forward
from rlra_jax.paths import join, readable
from rlra_jax.types import Batch


class NonFiniteError(RuntimeError):
    """A loss became NaN or infinite; the message names seed, epoch, step and the first region."""


class BadDataError(NonFiniteError):
    """It did because of examples that no learning rate could mend."""


def explain(
    experiment: Experiment, trainable: Trainable, before: Run, *, bad_step: int, seed: int, index: int, epoch: int
) -> NonFiniteError:
    """Replays an epoch up to its first step with a non-finite loss, and looks at that step's regions and synapses.

    Its examples are seen without crops and mirror images.

    Args:
      experiment: what was trained.
      trainable: which trained it.
      before: all seeds' Run at the start of the epoch.
      bad_step: the step, from 0; the one after the last means the validation.
      seed: the seed that failed.
      index: its place among the seeds.
      epoch: the epoch's number, from 1.
    """
    state, batch = trainable.replay(before, index, epoch, bad_step)
    steps = experiment.steps_per_epoch
    net = experiment.net if bad_step < steps else dataclasses.replace(experiment.net, call=call_on(experiment.reads))
    h = forward(net, state.variables, batch).h
    synapses = {_path(path): E for path, E in jax.tree.leaves_with_path(state.weights['synapses'])}
    place = (
        f'in the validation after epoch {epoch}'
        if bad_step == steps
        else f'at step {bad_step + 1} of {steps} in epoch {epoch}'
    )
    kept = f'The checkpoint of epoch {epoch - 1} is kept.' if epoch > 1 else 'There is no checkpoint yet.'
    logits = list(h.values())[-1]
    if told := _blame_data(batch, logits.shape[-1]):
        return BadDataError(f'the loss of seed {seed} is not finite {place}, nor can it be: {told}. {kept}')
    return NonFiniteError(
        f'the loss of seed {seed} is not finite {place}: {_blame(h, synapses)}. {kept} Try a lower learning rate (of '
        'the synapse optimizer, if synapses are named), a `radius`, or bounded activations.'
    )


def _blame_data(batch: Batch, classes: int) -> str | None:
    """What of a batch no model could learn from; None if it is sound. Labels of -1 fill up a validation batch."""
    if 'image' in batch:
        finite = np.isfinite(np.asarray(batch['image'], np.float32)).reshape(len(batch['label']), -1).all(axis=1)
        if not finite.all():
            places = np.flatnonzero(~finite).tolist()
            return f'the images at {places} of that batch, as the model sees them, are not finite'
    labels = np.asarray(batch['label'])
    if not -1 <= labels.min() <= labels.max() < classes:
        return f'the labels of that batch run from {labels.min()} to {labels.max()}, the model has {classes} classes'
    return None


def _blame(h: dict[str, Any], synapses: dict[str, Any]) -> str:
    bad = {
        what: [n for n, v in part.items() if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(v))]
        for what, part in (('h', h), ('E', synapses))
    }
    if bad['E']:
        also = f', and region {bad["h"][0]!r}' if bad['h'] else ''
        return f'the error synapses {[*map(readable, bad["E"])]} are not finite{also}'
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
    return join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
