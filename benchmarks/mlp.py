"""Time of a Fashion MNIST epoch for each wiring and rule of rec-LRA, relative to backprop's.

  python -m benchmarks.mlp

Same model (5 x 256 tanh), optimizer (Adam), batch (50) and data for all. Compiled first; then the epochs of all
methods are interleaved, so that drift of the machine's speed hits all alike, and the median ratio to the backprop
epoch of the same round is taken. Writes results/mlp_speed.json.
"""

import pathlib
import time

from absl import flags
from tqdm import tqdm

from benchmarks.epochs import lower_epoch, print_rows, time_rounds
from configs import mlp
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.data import load

_ROUNDS = flags.DEFINE_integer('rounds', 15, 'Epochs timed per method.', lower_bound=3)
_EXAMPLES = flags.DEFINE_integer('examples', 10_000, 'Training images of an epoch.', lower_bound=1000)
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of mlp_speed.json.')

METHODS = {
    'backprop': 'learner=backprop',
    **{
        f'{w} {rule}': f'rule={rule},learner.wiring={w}'
        for w in ('direct', 'blocks', 'chain')
        for rule in ('fixed', 'kp')
    },
    **{
        f'{w} mirror, k = 4': f'rule=mirror,learner.wiring={w},learner.mirror_every=4'
        for w in ('direct', 'blocks', 'chain')
    },
}


def main(argv: list[str]) -> None:
    """Times all methods and prints a table."""
    del argv
    data = load('fashion_mnist')
    data = data._replace(train=data.train.part(0, _EXAMPLES.value))
    compiled, seconds_compile = {}, {}
    for name, options in tqdm(METHODS.items(), desc='compiling', disable=None):
        lowered, inputs = lower_epoch(mlp.get_config(options), data)
        start = time.perf_counter()
        compiled[name] = lowered.compile(), inputs
        seconds_compile[name] = time.perf_counter() - start
    rows = [{**row, 'seconds_compile': seconds_compile[row['method']]} for row in time_rounds(compiled, _ROUNDS.value)]
    result = {
        'rows': rows,
        'batch_size': 50,
        'rounds': _ROUNDS.value,
        'examples': _EXAMPLES.value,
        **report.provenance(data.sha256),
    }
    report.write_json(pathlib.Path(_RESULTS.value) / 'mlp_speed.json', result)
    print_rows(rows)


if __name__ == '__main__':
    cli.run(main)
