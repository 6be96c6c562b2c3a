"""Lists what configs can name, one line each: learners, rules, kinds of synapses, wirings, models, data sets, configs.

python -m launch.list
python -m launch.list rules wirings
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from absl import app

from rlra_jax.experiment.data import DATASETS
from rlra_jax.experiment.modes import MODES
from rlra_jax.experiment.names import KINDS, RULES, WIRINGS
from rlra_jax.learners import LEARNERS
from rlra_jax.nn import ACTIVATIONS, MODELS

from . import cli, find_config


def _documented(table: Any) -> dict[str, str]:
    return {name: _first_line(thing) for name, thing in sorted(table.items())}


def _first_line(thing: Any) -> str:
    """Of its docstring, or of its class's; of what fills in arguments of another thing also these."""
    if isinstance(thing, functools.partial):
        given = (f'{key}={getattr(value, "__name__", value)}' for key, value in thing.keywords.items())
        return f'{_first_line(thing.func)} Here {", ".join(given)}.'
    own = thing if hasattr(thing, '__name__') else type(thing)
    return (inspect.getdoc(own) or '').partition('\n')[0]


def _configs(names: Iterable[str]) -> dict[str, str]:
    return {name: (find_config.load(find_config.find(name)).__doc__ or '').partition('\n')[0] for name in names}


SECTIONS: dict[str, tuple[str, Callable[[], dict[str, str]]]] = {  # name: (where it is given, what there is)
    'learners': ('learner=', lambda: _documented(LEARNERS)),
    'rules': ('rule=, of rec_lra', lambda: _documented(RULES)),
    'kinds': ('learner.kind=, of rec_lra', lambda: _documented(KINDS)),
    'wirings': ('learner.wiring=, of rec_lra', lambda: _documented(WIRINGS)),
    'models': ('model=', lambda: _documented(MODELS)),
    'activations': ('model.phi=', lambda: _documented(ACTIVATIONS)),
    'modes': ('parallel.mode=', lambda: _documented(MODES)),
    'datasets': ('dataset=', lambda: DATASETS),
    'configs': ('--config=', lambda: _configs(find_config.names())),
    'experiments': ('--experiment=, of launch.reproduce', lambda: _configs(find_config.experiments())),
}


def main(argv: list[str]) -> None:
    """Prints the sections named, or all."""
    chosen = argv[1:] or list(SECTIONS)
    if unknown := [name for name in chosen if name not in SECTIONS]:
        raise app.UsageError(f'no section {", ".join(unknown)}; there are {", ".join(SECTIONS)}')
    for name in chosen:
        given, entries = SECTIONS[name][0], SECTIONS[name][1]()
        width = max(map(len, entries))
        print(
            f'{name} ({given})',
            *(f'  {key:<{width}}  {about}'.rstrip() for key, about in entries.items()),
            '',
            sep='\n',
        )


run = functools.partial(cli.run, main)

if __name__ == '__main__':
    run()
