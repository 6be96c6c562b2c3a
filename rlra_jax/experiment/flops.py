"""What a training step computes, by XLA's count of its program for a CPU; nothing is computed here.

The program is compiled first. As written it repeats what several of its parts need; compiled it computes that once. A
loop's body counts once, however often it runs.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from rlra_jax.experiment.build import Experiment, build
from rlra_jax.experiment.data import Dataset
from rlra_jax.experiment.entries import plain


def step_flops(config: Any, dataset: Dataset) -> float:
    """FLOPs of one training step on average, all examples of the batch together; noisy passes by their share.

    Args:
      config: as `train` takes it.
      dataset: the data, of which only shapes matter.

    Raises:
      ValueError: as `build`.
    """
    learner = config['learner']
    default = 'mirror' if learner['name'] == 'rec_lra' else None
    rules = {'rule': learner.get('rule', default), 'rest': learner.get('rest')}
    mirrors = [key for key, rule in rules.items() if rule == 'mirror']
    every = learner.get('mirror_every', 1) if mirrors else 1
    if every == 1:
        return _flops(build(config, dataset))
    counts = []
    for changed in ({'mirror_every': 1}, dict.fromkeys(mirrors, 'fixed')):
        other = ConfigDict(plain(config))
        other.learner.update(changed)
        counts.append(_flops(build(other, dataset)))
    with_mirror, without = counts
    return without + (with_mirror - without) / every


def _flops(experiment: Experiment) -> float:
    def init(key: jax.Array) -> Any:
        return experiment.step.init(key, experiment.net.init(key))

    key = jax.eval_shape(lambda: jax.random.key(0))
    example = jax.eval_shape(lambda: experiment.example)
    with jax.default_device(jax.devices('cpu')[0]):  # not every platform counts
        lowered = jax.jit(experiment.step.update).lower(jax.eval_shape(init, key), example, key)
        analysis: Any = lowered.compile().cost_analysis()
    return analysis['flops']
