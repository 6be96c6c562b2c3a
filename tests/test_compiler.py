"""Each trick, and what happens without it; what writes in place also stands in tests/parallel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlra_jax import compiler
from rlra_jax.parallel import make_mesh


def spread(function, *specs):
    """The function under shard_map, over a mesh of one device: types vary there as they do over many."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=jax.P('data'))


def test_a_gradient_in_what_varies_is_summed_over_no_devices():
    w, x = jnp.ones(3), jnp.ones((4, 3))

    def grad(mark):
        return lambda w, x: jax.grad(lambda w: (x @ w).sum())(mark(w))[None]

    summed, alone = (
        str(jax.make_jaxpr(spread(grad(mark), jax.P(), jax.P('data')))(w, x))
        for mark in (lambda w: w, lambda w: compiler.varying(w, 'data'))
    )
    assert 'psum' in summed
    assert 'psum' not in alone


def test_a_constant_may_stand_where_something_varying_is_wanted():
    def pull(mark):
        def run(x):
            out, pull = jax.vjp(jnp.sin, x)
            return pull(mark(jnp.ones(3), out))[0]

        return spread(run, jax.P('data'))

    with pytest.raises(ValueError, match='argument to VJP function'):
        pull(lambda ones, out: ones)(jnp.ones(3))
    np.testing.assert_array_equal(pull(compiler.varying_like)(jnp.ones(3)), jnp.cos(jnp.ones(3)))


def test_a_second_pass_reuses_nothing_of_the_first():
    def products(mark):
        def run(w, x):
            first = jnp.tanh(x @ w).sum()
            return first, jnp.tanh(mark((x, first))[0] @ w)

        compiled = jax.jit(run).lower(jnp.ones((64, 64)), jnp.ones((64, 64))).compile()
        return compiled.as_text().count(' dot(')

    assert products(lambda pair: pair) == 1
    assert products(compiler.computed_anew) == 2


def test_what_several_read_is_computed_once():
    def sines(mark):
        def run(count, x):
            y = mark(count, jnp.sin(x))
            return y.T, y.sum(axis=0), y.sum(axis=1)

        program = jax.jit(jax.vmap(run, (None, 0)))
        inputs = jnp.int32(0), jnp.arange(24.0).reshape(2, 3, 4)
        return program(*inputs), program.lower(*inputs).compile().as_text().count(' sine(')

    plain, anew = sines(lambda count, y: y)
    own, once = sines(compiler.computed_once)
    jax.tree.map(np.testing.assert_array_equal, own, plain)
    assert once == 1 < anew
