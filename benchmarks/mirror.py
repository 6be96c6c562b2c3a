"""How well `mirror` aligns the updates with backprop's gradient, and what becomes of the activities.

  python -m benchmarks.mirror

5 x 256 relu on Fashion MNIST, Adam on W without a schedule, SGD on E, batch 50, one seed, 2,000 steps; then the cosine
of each hidden layer's update with the gradient on 1,000 training images, and the standard deviation of the last hidden
layer's pre-activation. Writes results/mirror.json.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags
from tqdm import tqdm

import rlra_jax
from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.data import load
from rlra_jax.experiment.names import WIRINGS
from rlra_jax.experiment.preprocess import Preprocess
from rlra_jax.experiment.scanned import put
from rlra_jax.model.capture import forward
from rlra_jax.model.gradient import loss_gradient
from rlra_jax.nn import ACTIVATIONS
from rlra_jax.parallel.mesh import make_mesh

_STEPS = flags.DEFINE_integer('steps', 2000, 'Training steps.', lower_bound=1)
_PHI = flags.DEFINE_enum('phi', 'relu', sorted(ACTIVATIONS), 'Activation function.')
_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of mirror.json.', allow_override=True)

CASES = [
    {'wiring': wiring, 'mirror_every': every, 'learning_rate': rate, 'synapse_rate': synapse_rate}
    for wiring in ('chain', 'blocks', 'direct')
    for every, rate in ((4, 1e-3), (1, 1e-3), (4, 2e-4), (1, 2e-4))
    for synapse_rate in (0.5, 1.0)
]


def main(argv: list[str]) -> None:
    """Trains every case and prints a table."""
    del argv
    data = load('fashion_mnist')
    rows = [measure(case, data, _PHI.value, _STEPS.value) for case in tqdm(CASES, disable=None)]
    result = {
        'rows': rows,
        'phi': _PHI.value,
        'steps': _STEPS.value,
        **report.provenance(data.sha256),
    }
    report.write_json(pathlib.Path(_RESULTS.value) / 'mirror.json', result)
    for row in rows:
        cosines = ' '.join(f'{cosine:.2f}' for cosine in row['cosines'])
        rates = f'rate of W {row["learning_rate"]:.0e}, of E {row["synapse_rate"]}'
        print(f'{row["wiring"]:7} k={row["mirror_every"]} {rates}: {cosines}, sd {row["sd"]:.1f}')


def measure(case: dict[str, Any], data: Any, phi: str, steps: int) -> dict[str, Any]:
    """A row of mirror.json."""
    train = put(data.train, Preprocess(data.scale), make_mesh())
    model = rlra_jax.nn.MLP(phi=ACTIVATIONS[phi])
    start = train.at(jnp.arange(50))
    net = rlra_jax.regions(model, start)
    wiring = WIRINGS[case['wiring']](net, rule=rlra_jax.Mirror(every=case['mirror_every']))
    learner = rlra_jax.update_fn(net, wiring, rlra_jax.Options(normalise=True))
    tx = rlra_jax.optimizers(optax.adam(case['learning_rate']), optax.sgd(case['synapse_rate']))
    step = rlra_jax.make_train_step(learner, tx)

    def body(state, key):
        index = jax.random.randint(key, (50,), 0, train.answers)
        return step.update(state, train.at(index), key)[0], ()

    variables = net.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(2), steps)
    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, keys))(step.init(jax.random.key(1), variables))

    batch = train.at(jnp.arange(1000))
    ours = learner(state.weights, state.state, batch, jax.random.key(3))[0]['params']
    theirs, _, _ = loss_gradient(net, rlra_jax.softmax_cross_entropy, state.variables, batch, jax.random.key(3))
    names = [f'dense_{layer}' for layer in range(1, 6)]
    cosines = [_cosine(ours[name]['kernel'], theirs[name]['kernel']) for name in names]
    h = forward(net, state.variables, batch).h['hidden_5']
    return {**case, 'cosines': cosines, 'sd': float(h.std())}


def _cosine(a: jax.Array, b: jax.Array) -> float:
    return float((a * b).sum() / jnp.sqrt((a**2).sum() * (b**2).sum()))


if __name__ == '__main__':
    cli.run(main)
