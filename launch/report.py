"""Writes one HTML page of a finished run, or of several beside each other, that needs no other file.

  python -m launch.report runs/digits/rec_lra
  python -m launch.report runs/digits/rec_lra runs/digits/backprop --out=digits.html

It has errors, curves, networks with their error pathways, activity and targets, what was taken for what, configs, and
where the numbers come from.
"""

import functools

from absl import app, flags

from rlra_jax.experiment.page import page
from rlra_jax.experiment.storage import local_path

from . import cli

_OUT = flags.DEFINE_string('out', None, 'The file. Default: report.html in the first workdir.')


def main(argv: list[str]) -> None:
    """Writes the page, and says where."""
    workdirs = cli.finished(argv[1:])
    path = local_path(_OUT.value or workdirs[0] / 'report.html')
    if path.is_dir():  # told before the page is made, which takes a while
        raise app.UsageError(f'--out must be a file; {path} is a folder')
    text = page(workdirs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    print(f'Report: {path}')


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
