"""When a loss is not finite: where it began."""

import jax
import jax.numpy as jnp

from rlra_jax.capture import forward
from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.data import Split
from rlra_jax.experiment.epoch import Run, batch_at, epoch_keys, epoch_order, run_axes


class NonFiniteError(RuntimeError):
    """A loss became NaN or infinite; the message names seed, epoch, step and the first region."""


def explain(
    experiment: Experiment, before: Run, train: Split, scale: float, *, seed: int, index: int, epoch: int
) -> NonFiniteError:
    """Replays an epoch up to the first step with a non-finite loss.

    Args:
      experiment: the run's model and step.
      before: all seeds' Run at the start of the epoch.
      train: the training split.
      scale: of its images.
      seed: the seed that failed.
      index: its place among the seeds.
      epoch: the epoch's number, from 1.
    """
    axes = run_axes(before)
    start = jax.tree.map(
        lambda axis, x: x if axis is None else x[index], axes, before, is_leaf=lambda node: node is None
    ).state
    steps, size = experiment.steps_per_epoch, experiment.example['label'].shape[0]

    @jax.jit
    def replay(state):
        order = epoch_order(jnp.asarray(seed), jnp.asarray(epoch), train.label.shape[0], steps, size)
        keys = jax.random.split(epoch_keys(jnp.asarray(seed), jnp.asarray(epoch))[1], steps)

        def run_step(carry):
            number, _, state, _ = carry
            new, aux = experiment.step.update(state, batch_at(train, order[number], scale), keys[number])
            return number + 1, state, new, jnp.isfinite(aux.loss)

        number, before_step, _, _ = jax.lax.while_loop(
            lambda carry: carry[3] & (carry[0] < steps), run_step, (0, state, state, jnp.asarray(True))
        )
        batch = batch_at(train, order[number - 1], scale)
        return number, forward(experiment.model, before_step.variables, batch['image']).h

    number, h = replay(start)
    bad = [name for name, value in h.items() if not bool(jnp.isfinite(value).all())]
    where = (
        f'region {bad[0]!r} was the first' if bad else 'every region was still finite, so the loss itself overflowed'
    )
    return NonFiniteError(
        f'the loss of seed {seed} is not finite at step {int(number)} of {steps} in epoch {epoch}: {where}. '
        'What was written before this epoch is kept. Try a lower learning rate, a `radius`, or bounded activations.'
    )
