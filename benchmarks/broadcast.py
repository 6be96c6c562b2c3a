"""What a synapse straight from the output can know of trained networks' Jacobians, region by region.

  python -m launch.train --config=configs/cifar10.py:model=resnet18,learner=backprop --workdir=runs/resnet
  python -m benchmarks.broadcast runs/resnet

Such a synapse sends every example over one and the same map, at best the mean of the examples' Jacobians of the
logits in the region's activity. For each region of a run's best variables (of its first seed, batch norm as in
inference): the share of the Jacobians' squared norm that their mean over training images has, and for each kind of
synapse the cosine of what it sends, at best, with what backprop would, on images that were not averaged over. Writes
results/broadcast.json.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from tqdm import tqdm

from launch import cli
from rlra_jax.experiment import report
from rlra_jax.experiment.restore import Trained, restore
from rlra_jax.model.call import call_on_image
from rlra_jax.model.capture import forward
from rlra_jax.model.net import Net
from rlra_jax.synapses import Channel, Dense, Grid
from rlra_jax.synapses.straight import StraightKind, correlate, transmit
from rlra_jax.types import Array
from rlra_jax.validate import require

_RESULTS = flags.DEFINE_string('results', 'results', 'Folder of broadcast.json.', allow_override=True)
_KINDS: dict[str, StraightKind] = {'dense': Dense(), 'grid': Grid(), 'channel': Channel()}
_BATCH = 100
_AVERAGED, _TRIED = 2000, 500  # training images, the latter after the former


def main(argv: list[str]) -> None:
    """Measures the run of each workdir given, and prints a table for each."""
    if len(argv) < 2:
        raise app.UsageError('name the workdirs of at least one run of launch.train or launch.reproduce')
    runs = []
    for trained in map(restore, argv[1:]):
        rows = measure(trained)
        config = trained.config.to_dict()
        print(f'{config["model"]["name"]}, {config["learner"]["name"]}, after epoch {trained.epoch}:')
        for row in rows:
            cosines = ', '.join(f'{kind} {cosine:.2f}' for kind, cosine in row['cosine'].items())
            print(f'  {row["region"]:24} share of the mean {row["share"]:.3f}, cosine {cosines}')
        origin = report.provenance(trained.dataset.sha256)
        runs.append({'rows': rows, 'epoch': trained.epoch, 'config': config, **origin})
    report.write_json(pathlib.Path(_RESULTS.value) / 'broadcast.json', {'runs': runs})


def measure(trained: Trained, averaged: int = _AVERAGED, tried: int = _TRIED) -> list[dict[str, Any]]:
    """A row for each hidden region, in forward order."""
    best = jax.tree.map(lambda leaf: leaf[0], trained.run.best)
    step = jax.jit(functools.partial(_batch, trained.experiment.net, best))
    train = trained.dataset.train
    require(train.size >= averaged + tried, 'the training images', f'at least {averaged + tried}', train.size)

    def batches(start: int, stop: int):
        for first in tqdm(range(start, stop, _BATCH), disable=None):
            part = train.part(first, min(first + _BATCH, stop))
            yield trained.preprocess(jnp.asarray(part.image)), jnp.asarray(part.label)

    add = functools.partial(jax.tree.map, jnp.add)
    total, power = functools.reduce(add, (step(x, label)[:2] for x, label in batches(0, averaged)))
    mean = jax.tree.map(lambda jacobian: jacobian / averaged, total)
    sent = {kind: {name: nearest(kind, jacobian) for name, jacobian in mean.items()} for kind in _KINDS}
    products = functools.reduce(add, (step(x, label, sent)[2] for x, label in batches(averaged, averaged + tried)))
    return [
        {
            'region': name,
            'share': float(jnp.sum(mean[name] ** 2) / (power[name] / averaged)),
            'cosine': {kind: float(_cosine(*products[kind][name])) for kind in _KINDS},
        }
        for name in mean
    ]


def nearest(kind: str, jacobian: Array) -> Array:
    """What a synapse from the output can come to of a Jacobian `[classes, ...]`: the mean over what it cannot tell."""
    each = jnp.eye(len(jacobian))
    own = _KINDS[kind]
    E = own.init(jax.random.key(0), each.shape, jacobian.shape, 1.0)
    repeats = own.usage(each.shape, jacobian.shape).repeats
    return transmit(own, len(each) * correlate(own, E, each, jacobian) / repeats, each, jacobian.shape)


def _cosine(ab: Array, aa: Array, bb: Array) -> Array:
    return ab / jnp.sqrt(aa * bb)


Jacobians = Mapping[str, Mapping[str, Array]]  # kind -> region -> [classes, ...]


def _batch(net: Net, variables: Any, x: Array, label: Array, shared: Jacobians | None = None):
    """Sums by region: Jacobians `[classes, ...]`, squared norms; and by kind products of what it and backprop send."""
    net, batch = dataclasses.replace(net, call=call_on_image), {'image': x}
    h = forward(net, variables, batch).h
    output = list(h)[-1]
    still = {name: jnp.zeros(value.shape, jnp.float32) for name, value in h.items() if name != output}

    def logits(shift: Mapping[str, Array]) -> Array:
        return forward(net, variables, batch, leave=lambda name, z: z + shift[name].astype(z.dtype)).h[output]

    out, pull = jax.vjp(logits, still)
    rows = [pull(jnp.zeros_like(out).at[:, k].set(1))[0] for k in range(out.shape[-1])]
    J = jax.tree.map(lambda *own: jnp.stack(own, axis=1), *rows)
    total, power = jax.tree.map(lambda own: own.sum(axis=0), J), jax.tree.map(lambda own: jnp.sum(own**2), J)
    if shared is None:
        return total, power, None
    e = jax.nn.softmax(out) - jax.nn.one_hot(label, out.shape[-1])

    def compare(name: str, mean: Array) -> tuple[Array, Array, Array]:
        sent, exact = jnp.tensordot(e, mean, 1), jnp.einsum('bk,bk...->b...', e, J[name])
        return jnp.vdot(sent, exact), jnp.vdot(sent, sent), jnp.vdot(exact, exact)

    return total, power, {kind: {name: compare(name, means[name]) for name in still} for kind, means in shared.items()}


if __name__ == '__main__':
    cli.run(main)
