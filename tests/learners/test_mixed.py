"""Mixtures of two policies: one below, another in the last layers."""

import apart
import helpers
import numpy as np
import pytest


@pytest.mark.parametrize(('name', 'below'), [('fa_bp', 'feedback_alignment'), ('ss_bp', 'sign_symmetry')])
def test_mixtures_are_backprop_above_and_the_other_below(name, below):
    model, variables, batch = helpers.make_mlp(depth=3)
    exact = helpers.gradient(model, variables, batch)
    mixed, _, _ = helpers.run_learner(apart.make_learner(name, model, batch['image'], last=1), variables, batch)
    pure, _, _ = helpers.run_learner(apart.make_learner(below, model, batch['image']), variables, batch)
    for layer in ('readout', 'dense_3'):  # the error arrives at dense_3 over the readout alone
        np.testing.assert_allclose(mixed.params[layer]['kernel'], exact[layer]['kernel'], atol=1e-6)
    assert helpers.cosine(mixed.params['dense_2'], exact['dense_2']) < 0.99
    assert helpers.cosine(pure.params['dense_3'], exact['dense_3']) < 0.99


@pytest.mark.parametrize('last', [0, 3])
def test_mixtures_need_something_to_mix(last):
    model, _, batch = helpers.make_mlp(depth=3)  # three kernels pass an error on
    with pytest.raises(ValueError, match='last must be'):
        apart.make_learner('fa_wm', model, batch['image'], last=last)


def test_mixtures_say_that_one_kernel_is_too_few():
    model, _, batch = helpers.make_mlp(depth=1)
    with pytest.raises(ValueError, match=r"two or more for a mixture; got \['readout/kernel'\]"):
        apart.make_learner('fa_bp', model, batch['image'])
