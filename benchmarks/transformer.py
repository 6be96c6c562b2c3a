"""Time of a step of the transformer on tiny Shakespeare by learner, and the memory of a step that streams its blocks.

  python -m benchmarks.transformer
  python -m benchmarks.transformer --options=model.width=32,model.context=16 --steps=4   # small

The config is configs/shakespeare.py. Epochs of all methods, mirror passes counted in at every second step, are
compiled first and then interleaved; ratios are medians over rounds. FLOPs are XLA's count of a step's program for a
CPU, mirror passes by their share. Memory is what the compiler plans for a step, besides the state, which is donated,
and the batch: backprop's, and that of rec-LRA's stream mode (`modules`), for networks of 4 and 32 blocks. Writes
results/transformer.json.
"""

import pathlib
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from benchmarks.epochs import lower_epoch, print_rows, time_rounds
from configs import shakespeare
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import Dataset, load, with_context
from rlra_jax.experiment.flops import step_flops

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Epochs timed per method.', lower_bound=3)
_STEPS = flags.DEFINE_integer('steps', 8, 'Steps of an epoch.', lower_bound=2)
_BLOCKS = flags.DEFINE_multi_integer('blocks', [4, 32], 'Depths whose memory is compared.', lower_bound=2)
_OPTIONS = flags.DEFINE_string('options', '', 'Entries of the config that all share: key=value,...')
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of transformer.json.', allow_override=True)

LEARNERS = {
    'backprop': 'learner=backprop',
    'kolen_pollack': 'learner=kolen_pollack',
    'direct_feedback_alignment': 'learner=direct_feedback_alignment',
    **{f'rec_lra {wiring}': f'learner.wiring={wiring}' for wiring in ('reverse', 'modules', 'direct')},
}
STEPS = {
    'backprop': LEARNERS['backprop'],
    'rec_lra stream': f'{LEARNERS["rec_lra modules"]},parallel.mode=stream',
}


def main(argv: list[str]) -> None:
    """Measures all and prints two tables."""
    del argv
    configs = {name: _config(options) for name, options in LEARNERS.items()}
    size, context = configs['backprop'].batch_size, configs['backprop'].model.context
    data = with_context(load('tiny_shakespeare'), context)
    data = data._replace(train=data.train.part(0, _STEPS.value * size), val=data.val.part(0, size))
    timed = {}
    for name, config in tqdm(configs.items(), desc='compiling', disable=None):
        lowered, inputs = lower_epoch(config, data)
        timed[name] = lowered.compile(), inputs
    rows = time_rounds(timed, _ROUNDS.value)
    for row in rows:
        row['step_ms'] = 1000 * row.pop('seconds') / _STEPS.value
        row['gflop'] = step_flops(configs[row['method']], data) / 1e9
    memory = [
        {'method': name, 'blocks': blocks, 'temp_bytes': temp_bytes(_config(f'{options},model.depth={blocks}'), data)}
        for name, options in STEPS.items()
        for blocks in tqdm(_BLOCKS.value, desc=name, disable=None)
    ]
    sizes = {'batch_size': size, 'steps': _STEPS.value, 'rounds': _ROUNDS.value, 'options': _OPTIONS.value}
    path = pathlib.Path(_RESULTS.value) / 'transformer.json'
    report.write_json(path, {'rows': rows, 'memory': memory, **sizes, **report.provenance(data.sha256)})
    print_rows(rows)
    for row in memory:
        print(f'{row["method"]:28} {row["blocks"]} blocks: {row["temp_bytes"] / 1e6:.1f} MB')


def _config(options: str) -> Any:
    return shakespeare.get_config(','.join(filter(None, [options, _OPTIONS.value])))


def temp_bytes(config: Any, data: Dataset) -> int:
    """What the compiler plans to allocate in a step, besides its arguments and results."""
    experiment = build(config, data)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: experiment.spread.pack(experiment.step.init(key, experiment.net.init(key))), key)
    step = jax.jit(experiment.spread.update, donate_argnums=0)
    plan: Any = step.lower(state, experiment.example, key).compile().memory_analysis()
    return plan.temp_size_in_bytes


if __name__ == '__main__':
    cli.run(main)
