"""The methods that `parallel.py` measures: steps of backprop and of rec-LRA's parallel modes on a residual MLP."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rlra_jax
from benchmarks import hlo
from benchmarks.yardstick import backprop_update
from rlra_jax.parallel.level import level_update_fn
from rlra_jax.parallel.mesh import make_mesh, replicate, shard_batch
from rlra_jax.parallel.packing import Packing
from rlra_jax.parallel.stage import stage_step
from rlra_jax.parallel.stream import stream_step
from rlra_jax.recursion.options import Options

STEPS = 8  # batches in a call of delayed steps
_RATE = 0.01


def _key() -> Any:
    """A key; made when needed, since the first one starts JAX."""
    return jax.random.key(0)


class Bench:
    """One model, batch and wiring, and the steps that the methods take.

    Args:
      blocks: of the residual MLP; 0: a ResNet-18 of 8 blocks, whose output reads the stem and every block.
      width: of the MLP, or of the stem.
      batch: examples.
      devices: how many the methods are spread over.
    """

    def __init__(self, blocks: int, width: int, batch: int, devices: int = 1):
        self.sizes = {'blocks': blocks, 'width': width, 'batch': batch, 'devices': devices}
        mlp, rule = blocks > 0, rlra_jax.KolenPollack()
        self.model: Any = (
            rlra_jax.nn.ResidualMLP(width=width, depth=2 * blocks, gap=2)
            if mlp
            else rlra_jax.nn.ResNet18(width=width, norm='group', readout='all', cells=2)
        )
        rng = np.random.default_rng(0)
        self.batch: Any = {
            'image': rng.normal(size=(batch, *((64,) if mlp else (32, 32, 3)))).astype(np.float32),
            'label': rng.integers(0, 10, batch).astype(np.int32),
        }
        self.net = rlra_jax.regions(self.model, self.batch)
        wire = functools.partial(rlra_jax.wire_blocks, kind=rlra_jax.Dense()) if mlp else rlra_jax.wire_modules
        self.wire = functools.partial(wire, self.net, rule=rule)
        self.wiring = self.wire()
        # In NumPy, so that no method's donated state is another's too.
        self.variables = jax.device_get(jax.jit(self.model.init)(_key(), self.batch['image']))
        self.optimizer = rlra_jax.optimizers(optax.sgd(_RATE), optax.sgd(_RATE))

    def step(self, method: str) -> tuple[Callable[..., Any], Any, Any]:
        """(update, state, batch) of a method such as 'rec_lra stage'."""
        learner, _, mode = method.partition(' ')
        count = self.sizes['devices']
        staged_as = ('stage', 'microbatched', 'overlap', 'delayed')
        spread = 'stage' if mode in staged_as else 'level' if mode == 'level' else 'data'
        sizes: dict[str, Any] = {'data': 1, spread: count}
        mesh = make_mesh(**sizes, devices=jax.devices()[:count])
        share = {name: x[self._mine(mesh)] for name, x in self.batch.items()}
        batch = shard_batch(mesh, share)
        if learner == 'backprop':
            update, state = self._backprop(remat=mode == 'remat')
        elif mode in staged_as:
            parts = count if mode in ('microbatched', 'overlap') else 1
            wiring = self.wire(overlap=1) if mode == 'overlap' else self.wiring
            staged = stage_step(self.net, wiring, mesh, self.optimizer, microbatches=parts)
            update = _repeat(staged.delayed) if mode == 'delayed' else staged.update
            return update, staged.init(_key(), self.variables), batch
        elif mode == 'stream':
            made = stream_step(self.net, self.wiring, self.optimizer)
            update, state = made.update, made.init(_key(), self.variables)
        else:
            if mode == 'level':
                rec_lra = level_update_fn(self.net, self.wiring, mesh)
            else:
                rec_lra = rlra_jax.update_fn(self.net, self.wiring)
            plain = rlra_jax.make_train_step(rec_lra, self.optimizer)
            update, state = plain.update, plain.init(_key(), self.variables)
        return update, replicate(mesh, state), batch

    def _mine(self, mesh: Any) -> slice:
        """Which examples are this process's: all of them where only stages are spread."""
        if mesh.shape['data'] * mesh.shape['level'] == 1:
            return slice(None)
        size = self.sizes['batch'] // jax.process_count()
        return slice(jax.process_index() * size, (jax.process_index() + 1) * size)

    def _backprop(self, *, remat: bool) -> tuple[Callable[..., Any], Any]:
        packing = Packing(self.net, self.wiring, options=Options())
        synapses = jax.tree.map(lambda a: jnp.zeros(a.shape), packing.weights['synapses'])
        held = packing.pack_held({'params': self.variables['params'], 'synapses': synapses}, {})
        return backprop_update(packing, _RATE, remat=remat), tuple(h.params for h in held)


def _repeat(delayed: Callable[..., Any]) -> Callable[..., Any]:
    """Delayed steps, with the same batch in each."""

    def update(state: Any, batch: Any, key: Any) -> Any:
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (STEPS, *x.shape)), batch)
        return delayed(state, many, jax.random.split(key, STEPS))

    return update


class Compiled:
    """A compiled method with its state."""

    def __init__(self, bench: Bench, method: str):
        self.at_once = STEPS if method.endswith('delayed') else 1  # steps of a call
        update, self.state, self.batch = bench.step(method)
        jitted = jax.jit(update, donate_argnums=0)
        self.compiled = jitted.lower(self.state, self.batch, _key()).compile()
        self.facts = hlo.describe(self.compiled)  # of a call

    def run(self, steps: int = 1) -> float:
        """Milliseconds a step, of a number of steps that calls divide."""
        start = time.perf_counter()
        for _ in range(steps // self.at_once):
            self.state, out = self.compiled(self.state, self.batch, _key())
        jax.block_until_ready((self.state, out))
        return 1000 * (time.perf_counter() - start) / steps
