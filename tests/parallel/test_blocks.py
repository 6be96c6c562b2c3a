"""Which neighbouring blocks are taken for one and the same function."""

import dataclasses

import helpers
import jax
import pytest

import rlra_jax
from rlra_jax.options import Options
from rlra_jax.parallel.blocks import find_runs
from rlra_jax.parallel.dissect import dissect

MIDDLE = 'hidden_5'  # the lower region of a block of two


@pytest.mark.parametrize(
    ('edge', 'options'),
    [
        ({'batch_norm': True}, {}),
        ({'rule': 'fixed'}, {}),
        ({}, {'kappa': {MIDDLE: 0.5}}),
        ({}, {'alpha': {MIDDLE: 0.5}}),
    ],
)
def test_a_block_unlike_its_neighbours_is_a_run_of_its_own(edge, options):
    model, variables, batch = helpers.make_mlp(depth=9, gap=2)
    wiring = helpers.make_wiring(model, batch['image'], 'blocks', rule='mirror')
    parts = dissect(model, variables, batch['image'], jax.random.key(0), train_kwargs=None)
    alike = find_runs(parts, wiring, Options())
    (longest,) = (run for run in alike if any(MIDDLE in block.regions for block in run))
    assert len(longest) > 2
    levels = tuple(
        tuple(dataclasses.replace(e, **edge) if e.target == MIDDLE else e for e in level) for level in wiring.levels
    )
    runs = find_runs(parts, rlra_jax.Wiring(wiring.output, levels), Options(**options))
    (own,) = (run for run in runs if any(MIDDLE in block.regions for block in run))
    assert len(own) == 1
    assert sum(map(len, runs)) == sum(map(len, alike))
