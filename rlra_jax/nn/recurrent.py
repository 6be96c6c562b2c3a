"""Recurrent networks over images: a step reads a row or a pixel.

Unrolled, a Site's call at step t is the region 'state#t'; scanned, 'state' is one region that has an axis of steps.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.model.site import Site
from rlra_jax.types import Array, Phi
from rlra_jax.validate import lookup, require_count, require_flag

_READ = {'row': lambda x: x.reshape(*x.shape[:2], -1), 'pixel': lambda x: x.reshape(x.shape[0], -1, x.shape[-1])}


class Recurrent(nn.Module):
    """What recurrent networks over images share; one adds `setup` and `step`.

    Returns logits `[B, classes]`, read from the last state, or `[B, T, classes]`, from each. The state before the first
    step is 0.

    Attributes:
      width: units of the state.
      classes: size of the output.
      phi: activation function of the state, or of the candidate for it.
      every_step: whether each state is read.
      per_step: what a step reads of images `[B, T, ...]`: a 'row', flattened, or of images `[B, height, width, C]` a
        'pixel'.
      scanned: whether JAX traces one step for all. Program and compile time then do not grow with the number of steps;
        wirings see all steps of a Site as one region.
      dtype: to compute in; None: the wider of the input's and param_dtype.
      param_dtype: of the parameters, and the least that logits are computed in.

    Raises:
      ValueError: a size below 1, a flag that is none, an unknown per_step, or an input of too few axes.
    """

    width: int = 128
    classes: int = 10
    phi: Phi = jnp.tanh
    every_step: bool = False
    per_step: str = 'row'
    scanned: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        require_count('width', self.width)
        require_count('classes', self.classes)
        require_flag('every_step', self.every_step)
        require_flag('scanned', self.scanned)
        self.readout = nn.Dense(self.classes, param_dtype=self.param_dtype)

    def step(self, state: Array, x: Array) -> tuple[Array, Array]:
        """The next state `[B, width]`, twice, of a state and what a step reads `[B, n]`."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        read = lookup(_READ, self.per_step, 'part of an image per step')
        of, least = ('[B, T, ...]', 3) if self.per_step == 'row' else ('images [B, height, width, C]', 4)
        if x.ndim < least:
            raise ValueError(f'a recurrent network reads a {self.per_step} of {of} at each step; got {x.shape}')
        steps = jnp.moveaxis(read(x), 1, 0)
        state = jnp.zeros((x.shape[0], self.width), self.dtype or jnp.promote_types(x.dtype, self.param_dtype))
        if self.scanned:
            scan = nn.scan(type(self).step, variable_broadcast='params', split_rngs={'params': False})
            _, states = scan(self, state, steps)
        else:
            states = []
            for x_t in steps:
                state, _ = self.step(state, x_t)
                states.append(state)
        return self.readout(jnp.stack(list(states), axis=1) if self.every_step else states[-1])

    def _inward(self) -> nn.Dense:
        return nn.Dense(self.width, dtype=self.dtype, param_dtype=self.param_dtype)

    def _across(self, *, use_bias: bool = False) -> nn.Dense:
        options: dict[str, Any] = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        return nn.Dense(self.width, use_bias, kernel_init=nn.initializers.orthogonal(), **options)


class Elman(Recurrent):
    """z_t = phi(W x_t + U z_{t-1} + b); attributes and result: as `Recurrent`."""

    def setup(self):
        super().setup()
        self.input, self.recurrent, self.state = self._inward(), self._across(), Site(self.phi)

    def step(self, state: Array, x: Array) -> tuple[Array, Array]:
        """The next state, twice."""
        state = self.state(self.input(x) + self.recurrent(state))
        return state, state


class GRU(Recurrent):
    """A gated recurrent unit (Cho et al. 2014); attributes and result: as `Recurrent`.

    With gates r_t and u_t, sigmoids of x_t and z_{t-1}, the candidate is c_t = phi(W x_t + b + r_t * (U z_{t-1} + a)),
    the state z_t = (1 - u_t) * c_t + u_t * z_{t-1}. Both are Sites, 'candidate' and 'state', the state's phi being the
    identity; the gates lie inside their regions.
    """

    def setup(self):
        super().setup()
        self.reset_input, self.update_input, self.candidate_input = (self._inward() for _ in range(3))
        self.reset_recurrent, self.update_recurrent = self._across(), self._across()
        self.candidate_recurrent = self._across(use_bias=True)
        self.candidate, self.state = Site(self.phi), Site(_same)

    def step(self, state: Array, x: Array) -> tuple[Array, Array]:
        """The next state, twice."""
        reset = jax.nn.sigmoid(self.reset_input(x) + self.reset_recurrent(state))
        update = jax.nn.sigmoid(self.update_input(x) + self.update_recurrent(state))
        candidate = self.candidate(self.candidate_input(x) + reset * self.candidate_recurrent(state))
        state = self.state((1 - update) * candidate + update * state)
        return state, state


def _same(h: Array) -> Array:
    return h
