"""Recurrent networks and transformers, by learner: `launch.reproduce --experiment=sequences`.

  python -m launch.train --config=configs/sequences.py:dataset=mnist,learner.through=7
  python -m launch.train --config=configs/sequences.py:dataset=tiny_shakespeare,learner=backprop

A GRU reads MNIST row by row (configs/rows.py), and a transformer tiny Shakespeare (configs/shakespeare.py): errors of
the one, bits per character of the other. rec-LRA's rows say how far errors travel back through time, or their wiring;
in `sign` the MLPs of the transformer have sign units, which backprop cannot train. Synapses mirror at every second
step, in `each-step` at each. In `skips` the output also reads every block: rec-LRA's edges then all follow the forward
path, start as W and take its steps; `overlap` hands errors one block further down.

Every row has three rates, searched with one seed, then 3 seeds and as many steps as every other of its data: 5 epochs
of MNIST, all of them in the search, too; 2 of the text, 1,960 steps of batch 16, a third of them in the search. --quick
trains smaller networks on a part of the data, each in about a minute on 2 cores.
"""

from typing import Any

from . import common, shakespeare
from . import rows as by_row

SEARCH = {'num_seeds': 1}
QUICK = {'num_seeds': 1}
COLUMNS = ('row',)
LEARNERS = {'BP': 'backprop', 'DFA': 'direct_feedback_alignment', 'KP': 'kolen_pollack', 'rLRA': 'rec_lra'}
RATES = (3e-3, 1e-3, 1e-2)
IMAGES: dict[str, dict[str, Any]] = {
    'BP': {},
    **{f'rLRA-{through}': {'learner.through': through} for through in ('none', 'chain', 7)},
    'DFA': {},
}
SKIPS = {'model.readout': 'all'}
PATHS = {'learner.wiring': 'modules', 'rule': 'kp', 'learner.kp_equal': True, 'synapse_optimizer.name': 'adam'}
TEXTS: dict[str, dict[str, Any]] = {
    'BP': {},
    **{f'rLRA-{wiring}': {'learner.wiring': wiring} for wiring in ('reverse', 'modules', 'direct')},
    'rLRA-reverse-each-step': {'learner.wiring': 'reverse', 'learner.mirror_every': 1},
    'rLRA-reverse-sign': {'learner.wiring': 'reverse', 'model.phi': 'sign', 'learner.surrogate': 'tanh'},
    'DFA': {},
    'KP': {},
    'BP-skips': SKIPS,
    'rLRA-skips-modules': {**SKIPS, **PATHS},
    'rLRA-skips-modules-overlap': {**SKIPS, **PATHS, 'learner.overlap': 1},
}


def get_config(argument: str = ''):
    """`dataset=`, `learner=`, `rule=`, `model=` and every key of the config can be given."""
    _, options = common.split(argument)
    text = options.get('dataset') == 'tiny_shakespeare'
    budget = 'num_seeds=3,epochs=2,batch_size=16' if text else 'num_seeds=3,epochs=5'
    return (shakespeare if text else by_row).get_config(f'{budget},{argument}')  # what comes later wins


def rows() -> list[dict[str, Any]]:
    """Every row; see `common.row`."""
    small = {'train_examples': 5000, 'epochs': 5, 'model.width': 64}
    found = [_row('mnist', name, own, small, {}) for name, own in IMAGES.items()]
    quick = {**shakespeare.QUICK, 'batch_size': 32}
    search = {'train_examples': 10000, 'epochs': 1}
    texts = [_row('tiny_shakespeare', name, own, quick, search) for name, own in TEXTS.items()]
    return found + texts


def _row(dataset: str, name: str, own: dict[str, Any], quick: dict[str, Any], search: dict[str, Any]) -> dict[str, Any]:
    algorithm = name.partition('-')[0]
    options = {'dataset': dataset, 'learner': LEARNERS[algorithm], **own}
    grid = common.rates(RATES, follow=algorithm == 'KP' or own.get('rule') == 'kp')
    return common.row(f'{dataset}-{name}', algorithm, options, grid) | {'quick': quick, 'search': search}
