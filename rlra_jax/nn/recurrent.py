"""Recurrent networks, unrolled over the rows of an image: a Site's call at step t is the region 'state#t'."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlra_jax.model.site import Site
from rlra_jax.types import Array, Phi
from rlra_jax.validate import require_count, require_flag


class Elman(nn.Module):
    """z_t = phi(W x_t + U z_{t-1} + b), z before the first step being 0; x_t is row t of `[B, T, ...]`, flattened.

    Returns logits `[B, classes]`, read from the last state, or `[B, T, classes]`, from each.

    Attributes:
      width: units of the state.
      classes: size of the output.
      phi: activation function of the state.
      every_step: whether each state is read.
      dtype: to compute in; None: the wider of the input's and param_dtype.
      param_dtype: of the parameters, and the least that logits are computed in.
    """

    width: int = 128
    classes: int = 10
    phi: Phi = jnp.tanh
    every_step: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        steps = _rows(self, x)
        inward, across = _dense(self, 'input'), _recurrent(self, 'recurrent')
        act, state, states = Site(self.phi, name='state'), _start(self, x), []
        for row in steps:
            state = act(inward(row) + across(state))
            states.append(state)
        return _read(self, states)


class GRU(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) over the rows of an image `[B, T, ...]`; returns as `Elman`.

    With gates r_t and u_t, sigmoids of x_t and z_{t-1}, the candidate is c_t = phi(W x_t + b + r_t * (U z_{t-1} + a)),
    the state z_t = (1 - u_t) * c_t + u_t * z_{t-1}. Both are Sites, 'candidate' and 'state', the state's phi being the
    identity; the gates lie inside their regions.

    Attributes:
      width: units of the state.
      classes: size of the output.
      phi: activation function of the candidate.
      every_step: whether each state is read.
      dtype: to compute in; None: the wider of the input's and param_dtype.
      param_dtype: of the parameters, and the least that logits are computed in.
    """

    width: int = 128
    classes: int = 10
    phi: Phi = jnp.tanh
    every_step: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        steps = _rows(self, x)
        inward = {part: _dense(self, f'{part}_input') for part in ('reset', 'update', 'candidate')}
        across = {part: _recurrent(self, f'{part}_recurrent') for part in ('reset', 'update')}
        across['candidate'] = _recurrent(self, 'candidate_recurrent', use_bias=True)
        act, keep = Site(self.phi, name='candidate'), Site(lambda h: h, name='state')
        state, states = _start(self, x), []
        for row in steps:
            reset, update = (jax.nn.sigmoid(inward[part](row) + across[part](state)) for part in ('reset', 'update'))
            candidate = act(inward['candidate'](row) + reset * across['candidate'](state))
            state = keep((1 - update) * candidate + update * state)
            states.append(state)
        return _read(self, states)


def _rows(model: Elman | GRU, x: Array) -> list[Array]:
    """Checks a model's sizes; the rows of its images, `[B, n]` each."""
    require_count('width', model.width)
    require_count('classes', model.classes)
    require_flag('every_step', model.every_step)
    if x.ndim < 3:
        raise ValueError(f'a recurrent network reads rows of [B, T, ...], one a step; got {x.shape}')
    return list(jnp.moveaxis(x.reshape(*x.shape[:2], -1), 1, 0))


def _start(model: Elman | GRU, x: Array) -> Array:
    dtype = model.dtype or jnp.promote_types(x.dtype, model.param_dtype)
    return jnp.zeros((len(x), model.width), dtype)


def _dense(model: Elman | GRU, name: str) -> nn.Dense:
    return nn.Dense(model.width, dtype=model.dtype, param_dtype=model.param_dtype, name=name)


def _recurrent(model: Elman | GRU, name: str, *, use_bias: bool = False) -> nn.Dense:
    options: dict[str, Any] = {'dtype': model.dtype, 'param_dtype': model.param_dtype, 'name': name}
    return nn.Dense(model.width, use_bias, kernel_init=nn.initializers.orthogonal(), **options)


def _read(model: Elman | GRU, states: list[Array]) -> Array:
    readout = nn.Dense(model.classes, param_dtype=model.param_dtype, name='readout')
    return readout(jnp.stack(states, axis=1) if model.every_step else states[-1])
