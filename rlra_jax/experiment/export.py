"""A run's forward model as one file that needs JAX alone: neither rlra_jax nor Flax."""

import jax
from etils import epath
from jax import export as jax_export

from rlra_jax.experiment.restore import Trained
from rlra_jax.experiment.storage import require_file
from rlra_jax.experiment.tfds_arrays import require_module
from rlra_jax.types import Array
from rlra_jax.validate import require, require_count

PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(trained: Trained, index: int = 0) -> jax_export.Exported:
    """The program from stored images, or tokens, to logits, the best variables and the preprocessing inside.

        save(export(trained), path)
        logits = jax.export.deserialize(path.read_bytes()).call(images)  # wherever there are jax and flatbuffers

    It runs on CPUs, NVIDIA GPUs and TPUs, and takes any number of images, as `trained.dataset` stores them. JAX reads
    such files for half a year of its versions at least.

    Args:
      trained: what `restore` returned.
      index: which of the run's seeds, from 0.

    Raises:
      ValueError: the run has no such seed.
    """
    seeds = len(trained.run.best_epoch)
    require_count('index', index, low=0)
    require(index < seeds, 'index', f'below {seeds}, the number of seeds', index)
    best = jax.tree.map(lambda leaf: leaf[index], trained.run.best)
    train = trained.dataset.train
    shape = jax_export.symbolic_shape(f'B, {", ".join(map(str, train.shape))}')

    def logits(image: Array) -> Array:
        return trained.experiment.predict(best, trained.preprocess(image))

    return jax_export.export(jax.jit(logits), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, train.dtype))


def save(exported: jax_export.Exported, path: epath.Path) -> None:
    """Writes an exported model through a temporary file, so that a kill leaves no half of one.

    Raises:
      ValueError: path is a folder.
      ModuleNotFoundError: a package that packs it is missing; says which.
    """
    require_file(path)
    require_module('flatbuffers', 'flatbuffers', 'exported models are packed by flatbuffers')
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'{path.name}.part')
    scratch.write_bytes(exported.serialize())
    scratch.replace(path)
