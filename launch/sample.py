"""Writes text by the best variables of a run on a text, finished or not.

python -m launch.sample --workdir=runs/shakespeare/rec_lra
python -m launch.sample --workdir=runs/shakespeare/rec_lra --prompt='ROMEO:' --temperature=0.8 --seed=1
"""

import functools

from absl import app, flags

from rlra_jax.experiment.restore import restore
from rlra_jax.experiment.sample import sample
from rlra_jax.experiment.storage import open_path

from . import cli

_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of the run, as launch.train was given or chose it.')
_PROMPT = flags.DEFINE_string('prompt', '\n', 'What the text begins with.')
_LENGTH = flags.DEFINE_integer('length', 500, 'How many characters to add.', lower_bound=0)
_TEMPERATURE = flags.DEFINE_float(
    'temperature', 1.0, 'Lower is more cautious; 0: always the most probable.', lower_bound=0
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the draws.', lower_bound=0)
_INDEX = flags.DEFINE_integer('index', 0, "Which of the run's seeds, from 0; its best variables.", lower_bound=0)
flags.mark_flag_as_required('workdir')


def main(argv: list[str]) -> None:
    """Prints the prompt and what the model goes on with."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}')
    options = {'temperature': _TEMPERATURE.value, 'seed': _SEED.value, 'index': _INDEX.value}
    print(sample(restore(open_path(_WORKDIR.value)), _PROMPT.value, _LENGTH.value, **options))


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
