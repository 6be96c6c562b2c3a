"""Evaluates a run, finished or not: its best variables of each seed, on one split of its data.

  python -m launch.evaluate --workdir=runs/digits/rec_lra
  python -m launch.evaluate --workdir=runs/digits/rec_lra --split=val --out=evaluation

Prints errors in %, also class by class (of many classes the hardest), and writes into the folder --out

  SPLIT.npz   seed [seeds], label [N], guess [seeds, N], logits [seeds, N, classes]
  SPLIT.json  the errors, each class's too, with versions, device and data hash
  SPLIT.png   the confusion matrix
"""

import functools

from absl import app, flags

from rlra_jax.experiment import evaluate, report
from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.storage import local_path, open_path

from . import cli

_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of the run, as launch.train was given or chose it.')
_SPLIT = flags.DEFINE_enum('split', 'test', evaluate.SPLITS, 'Which examples; photographs as their centre crops.')
_OUT = flags.DEFINE_string('out', None, 'Folder of the files. Default: WORKDIR/evaluation.')
flags.mark_flag_as_required('workdir')


def main(argv: list[str]) -> None:
    """Prints a run's errors and writes them, predictions and picture."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}')
    workdir, split = open_path(_WORKDIR.value), _SPLIT.value
    out = local_path(_OUT.value or workdir / 'evaluation')
    trained = restore(workdir)
    out.mkdir(parents=True, exist_ok=True)
    evaluation = evaluate.evaluate(trained, split)
    summary = evaluate.summarise(evaluation)
    evaluate.save_predictions(evaluation, out / f'{split}.npz')
    evaluate.plot_confusion(evaluation, out / f'{split}.png')
    origin = {'workdir': str(workdir), 'epoch': trained.epoch, **report.provenance(trained.dataset.sha256)}
    report.write_json(out / f'{split}.json', {'split': split, **summary, **origin})
    print(f'{trained.dataset.name}/{split}, best variables of {trained.epoch} epochs:\n\n{evaluate.told(summary)}\n')
    print(f'Predictions, errors and confusion matrix: {out / split}.npz, .json and .png')


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
