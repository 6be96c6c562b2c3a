"""Time of a ResNet-18 step on CIFAR-10: rec-LRA's wirings and its rivals, against backprop, and where it goes.

  python -m benchmarks.resnet                                     # on a GPU
  python -m benchmarks.resnet --options=model.width=8 --steps=8   # small

The epochs of all methods, mirror passes counted in at every 8th step, are compiled first and then interleaved. For
where a step's time goes there are also its parts by themselves: the forward pass; that and the weights' gradients at
given errors (the least that any local learner does); and whole steps whose synapses do not learn. In `skips` the
network has readout skips from every block, of 2 x 2 cells. Ratios are medians over rounds, to backprop on the plain
network. FLOPs are XLA's count of a step's program for a CPU, mirror passes by their share. Writes
results/resnet_speed.json.
"""

import functools
import pathlib
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from tqdm import tqdm

from benchmarks.epochs import Lowered, Timed, lower_epoch, print_rows, time_rounds
from configs import cifar10
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.build import build
from rlra_jax.experiment.data import Dataset, load
from rlra_jax.experiment.flops import step_flops
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.scanned import Examples, put
from rlra_jax.model.capture import cut_vjp, forward
from rlra_jax.validate import lookup

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Epochs timed per method.', lower_bound=3)
_STEPS = flags.DEFINE_integer('steps', 64, 'Steps of an epoch.', lower_bound=8)
_OPTIONS = flags.DEFINE_string('options', '', 'Entries of the config that all share: key=value,...')
_METHODS = flags.DEFINE_list('methods', [], 'Only these, and backprop; empty: all.')
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of resnet_speed.json.')

_PAIRS = ',learner.mirror_every=8'
_SINGLE = f'{_PAIRS},learner.mirror_antithetic=False'  # as the experiment cifar10 has it: its edges skip no layer
# Readout skips and rec-LRA over them as configs/shallow.py has them.
_SKIPS = ',model.readout=all,model.cells=2'
_OVER_SKIPS = f'learner=rec_lra,rule=kp,learner.wiring=modules,learner.kp_equal=True{_SKIPS}'
LEARNERS = {
    'backprop': 'learner=backprop',
    'kolen_pollack': 'learner=kolen_pollack',
    'direct_feedback_alignment': 'learner=direct_feedback_alignment',
    **{
        f'rec_lra {wiring} {rule}': f'learner=rec_lra,rule={rule},learner.wiring={wiring}{passes * (rule == "mirror")}'
        for wiring, passes in (('modules', _PAIRS), ('direct', _PAIRS), ('reverse', _SINGLE))
        for rule in ('mirror', 'fixed')
    },
    'backprop skips': f'learner=backprop{_SKIPS}',
    'rec_lra skips': _OVER_SKIPS,
    'rec_lra skips overlap': f'{_OVER_SKIPS},learner.overlap=1',
    'rec_lra skips quarter': f'{_OVER_SKIPS},learner.sends=0.25',
}
PARTS = ('forward', 'forward and weight gradients')


def main(argv: list[str]) -> None:
    """Times all methods and prints a table."""
    del argv
    data, configs = load('cifar10'), {name: _config(options) for name, options in LEARNERS.items()}
    size = configs['backprop'].batch_size
    data = data._replace(train=data.train.part(0, _STEPS.value * size), val=data.val.part(0, size))
    makers = {**dict.fromkeys(LEARNERS, _lower), **dict.fromkeys(PARTS, _lower_part)}
    names = dict.fromkeys(['backprop', *(_METHODS.value or makers)])
    lowered = {name: lookup(makers, name, 'method')(name, configs, data) for name in names}
    rows = time_rounds(_compile(lowered), _ROUNDS.value)
    for row in rows:
        row['step_ms'] = 1000 * row.pop('seconds') / _STEPS.value
        if row['method'] in configs:
            row['gflop'] = step_flops(configs[row['method']], data) / 1e9
    sizes = {'batch_size': size, 'steps': _STEPS.value, 'rounds': _ROUNDS.value, 'options': _OPTIONS.value}
    path = pathlib.Path(_RESULTS.value) / 'resnet_speed.json'
    report.write_json(path, {'rows': rows, **sizes, **report.provenance(data.sha256)})
    print_rows(rows)


def _config(options: str) -> Any:
    """With the data as it is stored: preprocessing costs all the same."""
    config = cifar10.get_config(','.join(['model=resnet18', options, *filter(None, [_OPTIONS.value])]))
    config.preprocess.zca = config.preprocess.contrast = False
    return config


def _compile(lowered: dict[str, Lowered]) -> dict[str, Timed]:
    """All at once: compilation takes longer than the epochs, and runs outside Python's lock."""
    with futures.ThreadPoolExecutor() as pool:
        waiting = {name: pool.submit(each.compile) for name, (each, _) in lowered.items()}
        progress = tqdm(waiting.items(), desc='compiling', disable=None)
        return {name: (compiled.result(), lowered[name][1]) for name, compiled in progress}


def _lower(name: str, configs: dict[str, Any], data: Dataset) -> Lowered:
    return lower_epoch(configs[name], data)


def _lower_part(name: str, configs: dict[str, Any], data: Dataset) -> Lowered:
    """An epoch's batches through the model in training, and also back to the weights of each region at errors of h."""
    experiment = build(configs['backprop'], data)
    net = experiment.net
    variables = net.init(jax.random.key(0))
    train = put(data.train, Preprocess(data.scale), experiment.spread.mesh)
    index = jnp.arange(data.train.size).reshape(_STEPS.value, -1)

    def step(train: Examples, params: Any, own: jax.Array) -> tuple[Any, Any]:
        held, batch = {**variables, 'params': params}, train.at(own)
        if name == 'forward':
            seen = forward(net, held, batch)
            return params, (seen.h['output'].sum(), seen.variables)
        seen, pull = cut_vjp(net, held, batch)
        grads = pull(seen.h)
        return jax.tree.map(lambda p, g: p - 1e-9 * g, params, grads), (seen.h['output'].sum(), seen.variables)

    def epoch(params: Any, train: Examples, index: jax.Array) -> Any:
        params, (sums, states) = jax.lax.scan(functools.partial(step, train), params, index)
        return params, sums, jax.tree.map(lambda s: s[-1], states)

    inputs = variables['params'], train, index
    return jax.jit(epoch).lower(*inputs), inputs


if __name__ == '__main__':
    cli.run(main)
