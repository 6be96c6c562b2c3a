"""Wirings of models: what feeds what is read off their traces."""

import apart
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import pytest
from hand_made import pathways

import rlra_jax
from rlra_jax.experiment.names import WIRINGS


@pytest.mark.parametrize('name', ['direct', 'chain', 'modules', 'reverse'])
def test_model_without_sites(name):
    model = rlra_jax.nn.MLP(widths=())
    with pytest.raises(ValueError, match='this model has no Site'):
        WIRINGS[name](apart.sites(model, helpers.make_batch()['image']))


class Branches(nn.Module):
    """b does not hear a, though it is called after it; c hears both."""

    @nn.compact
    def __call__(self, x):
        a = rlra_jax.Site(jnp.tanh, name='a')(nn.Dense(3)(x))
        b = rlra_jax.Site(jnp.tanh, name='b')(nn.Dense(5)(x))
        return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='c')(nn.Dense(7)(jnp.concatenate([a, b], axis=1))))


def test_regions_hear_none_that_they_do_not_feed():
    x = helpers.make_batch()['image']
    regions = apart.sites(Branches(), x)
    assert pathways(rlra_jax.wire_chain(regions)) == [[('output', 'a'), ('output', 'c')], [('c', 'b')]]
    assert pathways(rlra_jax.wire_auto(regions, devices=1)) == [[('output', 'c')], [('c', 'a'), ('c', 'b')]]
    edges = [helpers.edge('output', 'c'), helpers.edge('c', 'b'), helpers.edge('b', 'a')]
    variables = Branches().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"Mirror\(.* of edge b->a learns how 'b' responds to 'a'; but no activity"):
        apart.init_feedback(jax.random.key(1), Branches(), rlra_jax.wire(regions, edges), variables, x)


class Frozen(nn.Module):
    """A backbone that the model does not let learn, below a head that learns."""

    depth: int = 1

    @nn.compact
    def __call__(self, x):
        z = rlra_jax.Site(jnp.tanh, name='backbone')(nn.Dense(6, name='frozen')(x))
        z = jax.lax.stop_gradient(z)
        for _ in range(self.depth):
            z = rlra_jax.Site(jnp.tanh, name='head')(nn.Dense(5, name='dense')(z))
        return nn.Dense(4, name='readout')(z)


@pytest.mark.parametrize(
    ('name', 'depth'), [('rec_lra', 0), ('reverse', 1), ('lra_e', 1), ('direct_feedback_alignment', 0)]
)
def test_what_a_model_freezes_stays_as_it_is(name, depth):
    model, batch = Frozen(depth), helpers.make_batch()
    variables = dict(model.init(jax.random.key(0), batch['image']))
    make, options = (name, {}) if name != 'reverse' else ('rec_lra', {'wiring': 'reverse'})
    with pytest.warns(UserWarning, match=r"no error comes to \['backbone'\], which will not learn"):
        learner = apart.make_learner(make, model, batch['image'], **options)
    grads, _, _ = helpers.run_learner(learner, variables, batch)
    moved = {layer: bool(jnp.any(leaves['kernel'])) for layer, leaves in grads.params.items()}
    assert moved == {layer: layer != 'frozen' for layer in variables['params']}


def test_summary_says_which_region_no_error_comes_to():
    x = helpers.make_batch()['image']
    with pytest.warns(UserWarning, match='no error comes'):
        wiring = rlra_jax.wire_reverse(apart.sites(Frozen(), x))
    text = apart.summary(Frozen(), wiring, x)
    (row,) = (line.split() for line in text.splitlines() if line.startswith('backbone'))
    assert row == ['backbone', '-', '6', '6', '-']
