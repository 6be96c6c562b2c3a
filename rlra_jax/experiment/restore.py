"""A run, finished or not, back from its workdir: to evaluate, draw or go on with what it trained."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.checkpoint import Checkpoints
from rlra_jax.experiment.data import Dataset
from rlra_jax.experiment.epoch import Run, init_runs
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.storage import open_path
from rlra_jax.experiment.train import prepare
from rlra_jax.experiment.workdir import read_config

_ONE_DEVICE = {'mode': 'data', 'data': 1, 'level': 1, 'stage': 1, 'microbatches': 1}


class Trained(NamedTuple):
    """What a workdir holds, and what it was made of."""

    config: ConfigDict
    experiment: Experiment  # .model; .predict(variables, x) -> logits
    dataset: Dataset  # the training, validation and test data
    preprocess: Preprocess  # stored images -> what the model sees
    run: Run  # .best: variables of the best validation error, with a leading axis of seeds, as .state has
    epoch: int  # the last one saved, from 1


def restore(workdir: str | os.PathLike[str], dataset: Dataset | None = None) -> Trained:
    """Reads the last checkpoint of a workdir of `train`, onto one device wherever it was trained.

        trained = restore('runs/digits/rec_lra')
        best = jax.tree.map(lambda leaf: leaf[0], trained.run.best)  # of the first seed
        logits = trained.experiment.predict(best, trained.preprocess(trained.dataset.test.image[:10]))

    Args:
      workdir: where `train` wrote.
      dataset: which was given to `train`, if one was.

    Raises:
      FileNotFoundError: workdir holds no run, or none that has finished an epoch; or its data set is not prepared.
      ValueError: the checkpoint or config.json cannot be read.
    """
    folder = open_path(workdir)
    if not (folder / 'config.json').exists():
        raise FileNotFoundError(f'{folder} must be the workdir of a run; it has no config.json')
    config: Any = ConfigDict(read_config(folder) | {'parallel': _ONE_DEVICE})
    dataset, experiment, preprocess = prepare(config, dataset)
    seeds = jnp.arange(config.seed, config.seed + config.num_seeds, dtype=jnp.int32)
    checkpoints = Checkpoints(folder / 'checkpoints', read_only=True)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        jax.eval_shape(lambda: init_runs(experiment, seeds)),
    )
    run = checkpoints.restore(like)
    if run is None:
        raise FileNotFoundError(f'{folder} holds no checkpoint yet: its run has not finished an epoch')
    return Trained(config, experiment, dataset, preprocess, run, checkpoints.epoch)
