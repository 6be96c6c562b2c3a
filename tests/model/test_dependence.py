import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlra_jax.model.dependence import Trace, dependence


def program(a, b, c):
    """Five outputs over shared work, a call that hands two arguments through, and a constant."""
    swapped, doubled = jax.jit(lambda x, y: (y, 2 * x))(a, b)
    shared = jnp.sin(b) + np.arange(3.0)
    return [swapped, doubled, shared * c, jnp.ones(3), jax.checkpoint(lambda x, y: (jnp.cos(x), y))(shared, a)[0]]


NEEDS = [[1], [0], [1, 2], [], [1]]
ARGUMENTS = tuple(jnp.arange(3.0) + i for i in range(3))


@pytest.mark.parametrize('outputs', [[0], [1], [2], [3], [4], [2, 0], [0, 0, 3]], ids=str)
def test_a_part_computes_its_outputs_from_what_they_need(outputs):
    closed = jax.make_jaxpr(program)(*ARGUMENTS)
    part, inputs = Trace(closed.jaxpr).part(outputs)
    assert inputs == sorted({i for output in outputs for i in NEEDS[output]})
    got = jax.core.eval_jaxpr(part, closed.consts, *(ARGUMENTS[i] for i in inputs))
    expected = program(*ARGUMENTS)
    for output, value in zip(outputs, got, strict=True):
        np.testing.assert_array_equal(value, expected[output])


def test_a_part_is_no_larger_than_it_must_be():
    def chain(x):
        steps = [x]
        for _ in range(20):
            steps.append(jnp.sin(steps[-1]))
        return steps[1:]

    trace = Trace(jax.make_jaxpr(chain)(1.0).jaxpr)
    assert [len(trace.part([i])[0].eqns) for i in (0, 7, 19)] == [1, 8, 20]


def test_dependence_counts_leaves_of_the_first_argument():
    tree = {'a': ARGUMENTS[0], 'b': ARGUMENTS[1]}
    uses = dependence(lambda tree, c: program(tree['a'], tree['b'], c), tree, ARGUMENTS[2])
    assert uses == [[1], [0], [1], [], [1]]
