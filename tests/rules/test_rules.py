"""What rules say of themselves, which decides where parallel modes let them learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlra_jax.edges import Edge, LinkSignals
from rlra_jax.experiment.names import RULES
from rlra_jax.rules import KolenPollack, Mirror
from rlra_jax.synapses import Path

E = {'w': jnp.arange(6.0).reshape(2, 3)}
e, d, z = jnp.ones((4, 2)), jnp.ones((4, 3)), jnp.full((4, 3), 2.0)


class Heard:
    """A path at work that remembers whether it was asked to sum over examples."""

    def __init__(self, rule):
        self.edges, self.sums = (Edge('j', 'i', Path(), rule),), False

    def send(self, E, e):
        self.sums = True
        return {'j->i': e @ E['w']}

    def correlate(self, E, source, signals):
        self.sums = True
        return {'w': source.T @ signals['j->i'] / len(source)}


def test_rules_without_arguments():
    assert Mirror() == Mirror(std=0.1, every=1, antithetic=True)
    assert KolenPollack() == KolenPollack(equal=False)


@pytest.mark.parametrize('name', RULES)
def test_a_rule_says_what_it_asks_for(name):
    rule, asked = RULES[name](), []

    def target(d):
        asked.append(d)
        return z - d

    link = Heard(rule)
    params = {'w': jnp.full((2, 3), 7.0)}
    step = rule.learn(link, LinkSignals(E, e, {'j->i': d}, {'j->i': z}, {'j->i': target}, params))
    assert bool(asked) == (name == 'dx')
    assert link.sums == (rule.sums and not rule.noisy)
    assert jax.tree.structure(step) == jax.tree.structure(E)
    assert bool(np.any(step['w'])) == (name not in ('fixed', 'mirror'))
    if name == 'kp':
        np.testing.assert_array_equal(step['w'], params['w'])
