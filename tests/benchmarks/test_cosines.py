import dataclasses
import json
import pathlib

import architectures
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
import zoo

import rlra_jax
from benchmarks import cosines

ROOT = pathlib.Path(__file__).parents[2]
ROWS = json.loads((ROOT / 'results' / 'cosines.json').read_text())['rows']


def test_the_table_of_the_docs_is_what_was_measured():
    assert cosines.table(ROWS).markdown() in (ROOT / 'docs' / 'own_model.md').read_text()


def test_marks_of_a_model_are_at_most_ten_lines():
    assert {row['case'] for row in ROWS} <= {*architectures.MODELS, *architectures.OTHERS}
    assert all(1 <= row['marks'] <= 10 for row in ROWS)


@pytest.mark.parametrize(
    ('model', 'lines'), [(zoo.InlineMLP(), 2), (zoo.ResNet(act=rlra_jax.Site.of(nn.relu)), 1), (zoo.Encoder(), 2)]
)
def test_lines_of_marks(model, lines):
    assert cosines.marks(model) == lines


def test_learners_that_do_not_train_a_model_are_named_with_their_reason(monkeypatch):
    """'side' is dead to all; one learner moves nothing, and one refuses."""

    class Forked(nn.Module):
        @nn.compact
        def __call__(self, x):
            low, side = (rlra_jax.Site(jnp.tanh, name=name)(nn.Dense(4)(x)) for name in ('low', 'side'))
            return nn.Dense(4)(low + 0 * side)

    def still(net, loss):
        made = rlra_jax.LEARNERS['backprop'](net, loss=loss)

        def update(*given):
            grads, *rest = made.update(*given)
            return jax.tree.map(jnp.zeros_like, grads), *rest

        return dataclasses.replace(made, update=update)

    known = {name: rlra_jax.LEARNERS[name] for name in ('backprop', 'target_prop')}
    monkeypatch.setattr(cosines, 'LEARNERS', {**known, 'still': still})
    batch = {'image': jnp.ones((3, 5)), 'label': jnp.arange(3)}
    told = cosines.learners(architectures.Made(rlra_jax.regions(Forked(), batch), batch))['refused']
    assert told.pop('still') == "the update of ['low', 'output'] is zero or not finite"
    assert told.pop('target_prop').startswith('ValueError: target propagation inverts a chain of regions')
    assert not told
