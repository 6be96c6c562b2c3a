"""Exports a run's forward model: one file that JAX reads alone, without rlra_jax or Flax, for batches of any size.

  python -m launch.export --workdir=runs/digits/rec_lra --out=digits.jax
  python -m launch.export --workdir=runs/digits/rec_lra --out=digits.npz

It takes images as the data set stores them, and holds preprocessing and variables. Where there are jax and flatbuffers:

  import pathlib, jax.export
  model = jax.export.deserialize(pathlib.Path('digits.jax').read_bytes())
  logits = model.call(images)  # as model.in_avals says: uint8 [B, 8, 8, 1]

A file that ends in .npz holds arrays instead, for rlra_jax.experiment.pretrained.read.
"""

import functools

from absl import app, flags

from rlra_jax.experiment import pretrained
from rlra_jax.experiment.export import export, save
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.storage import open_path, require_file

from . import cli

_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of the run, as launch.train was given or chose it.')
_INDEX = flags.DEFINE_integer('index', 0, "Which of the run's seeds, from 0; its best variables.", lower_bound=0)
_OUT = flags.DEFINE_string('out', None, 'The file. Default: WORKDIR/model.jax.')
flags.mark_flag_as_required('workdir')


def main(argv: list[str]) -> None:
    """Writes the file, and prints what it takes and gives."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}')
    workdir = open_path(_WORKDIR.value)
    path = open_path(_OUT.value) if _OUT.value else workdir / 'model.jax'
    require_file(path)  # before what takes long
    trained = restore(workdir)
    if path.suffix == '.npz':
        pretrained.save(trained, path, _INDEX.value)
        print(f'The best variables of one seed: {path}')
        return
    exported = export(trained, _INDEX.value)
    save(exported, path)
    (image,), (logits,) = exported.in_avals, exported.out_avals
    print(f'{image.str_short()} -> {logits.str_short()} on {", ".join(exported.platforms)}: {path}')


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
