"""A run, finished or not, back from its workdir: to evaluate, draw or go on with what it trained."""

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from rlra_jax.experiment import report
from rlra_jax.experiment.build import Experiment
from rlra_jax.experiment.checkpoint import Checkpoints
from rlra_jax.experiment.data import Dataset
from rlra_jax.experiment.epoch import Run, init_runs
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.storage import open_path
from rlra_jax.experiment.train import prepare
from rlra_jax.experiment.workdir import check_meaning, read_config
from rlra_jax.types import Array, Variables
from rlra_jax.validate import require, require_count

_LOG = logging.getLogger(__name__)
_ONE_DEVICE = {'mode': 'data', 'data': 1, 'level': 1, 'stage': 1, 'microbatches': 1}
_ADDED = {'bad_examples': 'error', 'on_nan': 'stop'}  # entries that older runs do not have


class Trained(NamedTuple):
    """What a workdir holds, and what it was made of."""

    config: ConfigDict
    experiment: Experiment  # .net.model, .predict(variables, what the model sees) -> logits
    dataset: Dataset  # the training, validation and test data
    preprocess: Preprocess  # stored images, or tokens -> what the model sees
    run: Run  # .best: variables of the best validation, with a leading axis of seeds, as .state has
    epoch: int  # the last one saved, from 1
    predict: Callable[..., Array]  # (stored images [B, ...], index of a seed = 0) -> logits [B, ...]; see `restore`


def restore(workdir: str | os.PathLike[str], dataset: Dataset | None = None) -> Trained:
    """Reads the last checkpoint of a workdir of `train`, onto one device wherever it was trained.

        trained = restore('runs/digits/rec_lra')
        logits = trained.predict(trained.dataset.test.image[:10])  # [10, classes]

    Where the run's `data_dir` is not there any more, its data are read from $RLRA_DATA_DIR.

    `.predict(image, index=0)` takes images `[B, height, width, channels]` as the data set stores them, preprocesses
    them, and asks the best variables of one seed, the index-th of the run's, from 0. It raises ValueError for images of
    another shape or type, such as ones that are preprocessed already. Of a text it takes tokens int32 `[B, context]`
    and gives logits `[B, context, classes]`.

    Args:
      workdir: where `train` wrote.
      dataset: which was given to `train`, if one was.

    Raises:
      FileNotFoundError: workdir holds no run, or none that has finished an epoch; or its data set is not prepared.
      ValueError: the checkpoint or config.json cannot be read, or the run was trained on other data.
    """
    folder = open_path(workdir)
    if not (folder / 'config.json').exists():
        raise FileNotFoundError(f'{folder} must be the workdir of a run; it has no config.json')
    config: Any = ConfigDict(_ADDED | read_config(folder) | {'parallel': _ONE_DEVICE})
    config.data_dir = _where_data_are(config.data_dir)
    dataset, experiment, preprocess = prepare(config, dataset)
    _check_data(folder, dataset)
    seeds = jnp.arange(config.seed, config.seed + config.num_seeds, dtype=jnp.int32)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        jax.eval_shape(lambda: init_runs(experiment, seeds)),
    )
    with contextlib.closing(Checkpoints(folder / 'checkpoints', read_only=True)) as checkpoints:
        run = checkpoints.restore(like)
    if run is None:
        raise FileNotFoundError(f'{folder} holds no checkpoint yet: its run has not finished an epoch')
    predict = _predictor(experiment, dataset, preprocess, run)
    return Trained(config, experiment, dataset, preprocess, run, checkpoints.epoch, predict)


def _where_data_are(data_dir: str) -> str:
    """The folder of a run's data; '', which stands for $RLRA_DATA_DIR, where that is set and the folder is gone."""
    instead = os.environ.get('RLRA_DATA_DIR')
    if not data_dir or not instead or open_path(data_dir).exists():
        return data_dir
    _LOG.warning("%s, the run's data_dir, is gone: its data are read from $RLRA_DATA_DIR, %s", data_dir, instead)
    return ''


def _check_data(folder: epath.Path, dataset: Dataset) -> None:
    """Raises ValueError unless the run was trained on this data, as far as it noted that."""
    origin = folder / 'origin.json'
    begun = report.read_json(origin) if origin.exists() else {}
    theirs = begun.get('data_sha256', dataset.sha256)
    if theirs != dataset.sha256:
        raise ValueError(
            f'{folder} holds a run on other data, of sha256 {theirs[:8]}; here {dataset.name} has '
            f'{dataset.sha256[:8]}. It needs the data set that it was trained on.'
        )
    check_meaning(folder, begun, dataset.meaning)


def _predictor(experiment: Experiment, dataset: Dataset, preprocess: Preprocess, run: Run) -> Callable[..., Array]:
    """`Trained.predict`."""
    shape, dtype, seeds = dataset.train.shape, jnp.dtype(dataset.train.dtype), len(run.best_epoch)
    what = 'tokens' if experiment.reads == 'tokens' else 'images'

    @jax.jit
    def logits(variables: Variables, preprocess: Preprocess, image: Array) -> Array:
        return experiment.predict(variables, preprocess(image))

    def predict(image: Array, index: int = 0) -> Array:
        require_count('index', index, low=0)
        require(index < seeds, 'index', f'below {seeds}, the number of seeds', index)
        require_as_stored(what, image, shape, dtype, dataset.name)
        return logits(jax.tree.map(lambda leaf: leaf[index], run.best), preprocess, image)

    return predict


def require_as_stored(what: str, came: Array, shape: tuple[int, ...], dtype: Any, name: str) -> None:
    """Raises ValueError unless images or tokens are such as a data set stores them, before any preprocessing.

    Args:
      what: what they are.
      came: `[B, ...]`.
      shape: of one of the data set's.
      dtype: of the data set's; any floating one stands for all.
      name: the data set's.
    """
    floating = jnp.issubdtype(dtype, jnp.floating)
    require(hasattr(came, 'shape') and hasattr(came, 'dtype'), what, 'an array', type(came).__name__)
    fits = jnp.issubdtype(came.dtype, jnp.floating) if floating else came.dtype == dtype
    stored = f'{"floating" if floating else dtype} [B, {", ".join(map(str, shape))}], as {name} stores them'
    if not fits or came.shape[1:] != shape:
        raise ValueError(f'{what} must be {stored}; got {came.dtype} {list(came.shape)}')
