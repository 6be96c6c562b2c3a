"""Trained networks as small files of arrays, and one that comes with the package.

Nothing in such a file is executed: it is NumPy's format without pickled objects.
"""

import json
import pathlib
import zipfile
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from flax import traverse_util

from rlra_jax.experiment.augment import over_flips
from rlra_jax.experiment.build import make_model
from rlra_jax.experiment.entries import what
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.report import versions
from rlra_jax.experiment.restore import Trained, require_as_stored
from rlra_jax.experiment.storage import require_file
from rlra_jax.paths import flatten, split
from rlra_jax.types import Array, Variables
from rlra_jax.validate import require, require_count

_DIGITS = pathlib.Path(__file__).with_name('digits.npz')
_ABOUT = 'about'  # the entry beside the arrays


class Pretrained(NamedTuple):
    """A model and what it learned. Called, it answers images `[B, height, width, channels]` as their data set has them.

    Other images raise ValueError.

    network = digits()
    logits = network(images)  # [B, classes]
    """

    model: nn.Module
    variables: Variables
    preprocess: Preprocess
    about: dict[str, Any]  # the config, and where the file comes from

    def __call__(self, image: Array) -> Array:
        if 'shape' in self.about:  # which older files lack
            shape, name = tuple(self.about['shape']), self.about['config']['dataset']
            require_as_stored('images', image, shape, np.dtype(self.about['dtype']), name)
        answer: Any = self.model.apply
        flips = self.about['config'].get('average_flips', False)  # older files have none
        return (over_flips(answer) if flips else answer)(self.variables, self.preprocess(image))


def digits() -> Pretrained:
    """The network of 3 x 128 tanh units that `make train` trains on digits with rec-LRA, its first seed."""
    return read(epath.Path(_DIGITS))


def save(trained: Trained, path: epath.Path, index: int = 0) -> None:
    """Writes the best variables of one seed of a run, its config, and where they come from.

    Args:
      trained: what `restore` returned.
      path: the file.
      index: which of the run's seeds, from 0.

    Raises:
      ValueError: path is a folder, the run has no such seed, or its images are whitened, it is one on a text, or its
        learner answers otherwise than by a forward pass.
    """
    require_file(path)
    seeds = len(trained.run.best_epoch)
    require_count('index', index, low=0)
    require(index < seeds, 'index', f'below {seeds}, the number of seeds', index)
    plain = trained.preprocess.scale is not None and trained.preprocess.whitening is None
    require(plain, 'the run', 'on images that are not whitened; export this one as .jax', trained.dataset.name)
    what_learner = 'one that answers by a forward pass; export this one as .jax'
    require(not trained.experiment.settles, 'the learner', what_learner, trained.config['learner']['name'])
    best = jax.tree.map(lambda leaf: np.asarray(leaf[index]), trained.run.best)
    about = {
        'config': what(trained.config),
        'classes': trained.dataset.classes,
        'scale': trained.dataset.scale,
        'shape': trained.dataset.train.shape,
        'dtype': np.dtype(trained.dataset.train.dtype).name,
        'seed': int(trained.config.seed) + index,
        'epoch': int(trained.run.best_epoch[index]),
        'data_sha256': trained.dataset.sha256,
        'versions': versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'{path.name}.part')
    with scratch.open('wb') as file:
        entries: dict[str, Any] = {**flatten(best), _ABOUT: np.array(json.dumps(about))}
        np.savez_compressed(file, **entries)
    scratch.replace(path)


def read(path: epath.Path) -> Pretrained:
    """What `save` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is none that `save` wrote, or holds objects that only pickle could read.
    """
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        about = json.loads(str(found.pop(_ABOUT)))
        model = make_model(about['config']['model'], about['classes'])
        preprocess = Preprocess(about['scale'], about['config']['preprocess']['contrast'])
    except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} must be a file that rlra-export wrote, ending in .npz; {error}') from error
    variables = traverse_util.unflatten_dict({tuple(split(name)): value for name, value in found.items()})
    return Pretrained(model, variables, preprocess, about)
