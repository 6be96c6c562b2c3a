"""Errors along a loop that JAX traces once: from each iteration to the one before.

The error of one iteration determines the error of the iteration before it. So this recursion has as many levels as the
loop has iterations. It is the loop's backward pass with one change: when a displacement reaches a Site, the Site
computes its error by Eqs. 3 and 4, and uses no derivative. The program does not grow with the number of iterations.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlra_jax.edges import Wiring
from rlra_jax.loss import widen
from rlra_jax.model.backward_pass import BackwardPass
from rlra_jax.model.capture import visited_pass
from rlra_jax.model.net import Net
from rlra_jax.model.programs import Flat, Values, split
from rlra_jax.paths import refill
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.region import react
from rlra_jax.types import Array, Batch, Phi, Variables


class Loop(NamedTuple):
    """A loop along which errors travel."""

    net: Net
    regions: tuple[str, ...]  # in forward order
    variables: Variables
    batch: Batch
    key: Array  # of the model's random streams
    z: Mapping[str, Array]  # hidden region -> its activity

    def displacements(
        self, E: Flat, d: Mapping[str, Array], alpha: Mapping[str, float], options: Options
    ) -> dict[str, Array]:
        """Region -> the displacement `[B, iterations, ...]` that the edges along the loop cause together.

        Args:
          E: {path of a parameter: what stands for it}, of all synapses along the loop.
          d: region -> the displacement that other edges cause; of those left out, none.
          alpha: region -> its error mixture.
          options: as of `react`.
        """
        params, stats = split(self.variables)
        outside = {name: z for name, z in self.z.items() if name not in self.regions}
        given = {name: d.get(name, jnp.zeros_like(widen(self.z[name]))) for name in self.regions}

        def run(params: Flat, rest: Values, fixed: Values) -> tuple[Array, tuple[()]]:
            others = {name: tree for name, tree in self.variables.items() if name != 'params'}
            variables = {'params': refill(self.variables['params'], params), **refill(others, fixed['stats'])}

            def visit(name: str, phi: Phi, h: Array, own: Array) -> Array:
                return _answering(phi, alpha[name], options)(h, own) if name in self.regions else own

            seen = visited_pass(self.net, variables, rest['x'], fixed['key'][''], visit, {**rest['z'], **rest['d']})
            return jnp.stack([widen(h).sum() for h in seen.h.values()]), ()  # all that hear regions of the loop

        rest = {'x': dict(self.batch), 'z': outside, 'd': given}
        back = BackwardPass(run, params, rest, {'stats': stats, 'key': {'': self.key}})
        own = {name: E[name].astype(W.dtype) if name in E else jnp.zeros_like(W) for name, W in params.items()}
        return back.pull(back.weights(own), jnp.zeros_like(back.out))['d']


def _answering(phi: Phi, alpha: float, options: Options) -> Callable[[Array, Array], Array]:
    """(h, d from elsewhere) -> phi(h); on the way back a displacement causes an error, and is told as d's cotangent."""

    @jax.custom_vjp
    def leave(h: Array, d: Array) -> Array:
        return phi(h)

    def forward(h: Array, d: Array) -> tuple[Array, tuple[Array, Array]]:
        return phi(h), (h, d)

    def backward(kept: tuple[Array, Array], signal: Array) -> tuple[Array, Array]:
        h, d = kept
        signal = signal.astype(d.dtype)
        return react(phi, widen(h), [d, signal], alpha, options).e.astype(h.dtype), signal

    leave.defvjp(forward, backward)
    return leave


def find_loops(
    net: Net, wiring: Wiring, variables: Variables, batch: Batch, key: Array, z: Mapping[str, Array]
) -> tuple[Loop, ...]:
    """The loops along which a wiring sends errors; arguments: as of `Loop`."""
    stack = {region.name: region.stack for region in net.regions if region.stack}
    used = dict.fromkeys(stack[e.source] for e in wiring.edges if stack.get(e.source, '') == stack.get(e.target))
    return tuple(
        Loop(net, tuple(name for name in stack if stack[name] == loop), variables, batch, key, z) for loop in used
    )
