"""Compares finished runs: a table of errors, and their curves in one picture.

python -m launch.compare runs/digits/rec_lra runs/digits/backprop --plot=runs/digits/curves.png
"""

import functools

from absl import app, flags

from rlra_jax import plot
from rlra_jax.experiment import pictures
from rlra_jax.experiment.report import read_result, table
from rlra_jax.experiment.storage import local_path

from . import cli

_PLOT = flags.DEFINE_string('plot', 'runs/curves.png', 'Where the picture goes; its suffix picks the format.')


def main(argv: list[str]) -> None:
    """Reads the result.json and metrics.csv of each workdir given."""
    workdirs = cli.finished(argv[1:])
    path = local_path(_PLOT.value)
    figure = pictures.of_runs(workdirs)
    if path.suffix.removeprefix('.').lower() not in figure.canvas.get_supported_filetypes():
        raise app.UsageError(f'--plot must end in a suffix that names a format, such as .png; got {path}')
    print(table([read_result(workdir / 'result.json') for workdir in workdirs], workdirs))
    plot.save(figure, path)
    print(f'Curves: {path}')


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
