import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

import rlra_jax
from rlra_jax import plot

BATCH = {'image': jnp.zeros((2, 4)), 'label': jnp.zeros(2, int)}


def drawn(wiring, net):
    """(numbers in the regions from below, {colour and style: how many arrows})."""
    (axis,) = plot.network(net, wiring).axes
    numbers = [text.get_text() for text in axis.texts if text.get_position()[0] == 0]
    arrows = [patch for patch in axis.patches if isinstance(patch, FancyArrowPatch)]
    return numbers, arrows


@pytest.mark.parametrize(
    ('wire', 'numbers', 'straight', 'along'),
    [
        (rlra_jax.wire_direct, ['', '1', '1', '1', '0'], 2, 1),
        (rlra_jax.wire_chain, ['', '3', '2', '1', '0'], 0, 3),
        (rlra_jax.wire_blocks, ['', '2', '1', '1', '0'], 1, 2),
    ],
)
def test_regions_tell_their_levels_and_arrows_their_kinds(wire, numbers, straight, along):
    net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(3, 3, 3)), BATCH)
    found, arrows = drawn(wire(net), net)
    assert found == numbers
    forward = [arrow for arrow in arrows if arrow.get_edgecolor() == (0.55, 0.55, 0.55, 1.0)]
    assert len(forward) == 4
    errors = [arrow for arrow in arrows if arrow not in forward]
    assert [arrow.get_linestyle() for arrow in errors].count('-') == straight
    assert [arrow.get_linestyle() for arrow in errors].count('--') == along
    levels = len(wire(net).levels)
    assert len({arrow.get_edgecolor() for arrow in errors}) == levels


def test_notebooks_show_it():
    net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(3,)), BATCH)
    assert plot.network(net, rlra_jax.wire_direct(net))._repr_png_().startswith(b'\x89PNG')


def test_a_skip_is_drawn():
    class Skip(nn.Module):
        @nn.compact
        def __call__(self, x):
            one = rlra_jax.Site(jnp.tanh, name='one')(nn.Dense(4)(x))
            two = rlra_jax.Site(jnp.tanh, name='two')(nn.Dense(4)(one))
            return nn.Dense(4)(rlra_jax.Site(jnp.tanh, name='three')(one + two))

    net = rlra_jax.regions(Skip(), BATCH)
    _, arrows = drawn(rlra_jax.wire_direct(net), net)
    assert sum(arrow.get_edgecolor() == (0.55, 0.55, 0.55, 1.0) for arrow in arrows) == 5


def test_a_loop_is_drawn_at_the_side_of_its_region():
    batch = {'image': jnp.zeros((2, 4, 3)), 'label': jnp.zeros(2, int)}
    net = rlra_jax.regions(rlra_jax.nn.Elman(width=4, scanned=True), batch)
    _, arrows = drawn(rlra_jax.wire_reverse(net), net)
    forward = [arrow for arrow in arrows if arrow.get_edgecolor() == (0.55, 0.55, 0.55, 1.0)]
    assert (len(forward), len(arrows) - len(forward)) == (2, 2)  # from the step before, and to the output


def test_a_wiring_of_another_model():
    one, other = (rlra_jax.regions(rlra_jax.nn.MLP(widths=widths), BATCH) for widths in ((3,), (3, 3)))
    with pytest.raises(ValueError, match="unknown region 'hidden_2'"):
        plot.network(one, rlra_jax.wire_direct(other))


def test_activity_and_targets_of_each_hidden_region():
    net = rlra_jax.regions(rlra_jax.nn.MLP(widths=(3, 5)), BATCH)
    wiring = rlra_jax.wire_direct(net)
    learner = rlra_jax.update_fn(net, wiring)
    weights, state = learner.init(jax.random.key(0))
    figure = plot.activity(net, wiring, weights, state, BATCH, jax.random.key(1))
    assert [axis.get_title() for axis in figure.axes] == ['hidden_1', 'hidden_2']
    counted = [sum(patch.get_height() for patch in axis.patches[:-1]) for axis in figure.axes]
    np.testing.assert_array_equal(counted, [2 * 3, 2 * 5])
    with pytest.raises(ValueError, match='wiring must be a Wiring, as wire_blocks'):
        plot.activity(net, rlra_jax.wire_direct, weights, state, BATCH, jax.random.key(1))
    with pytest.raises(ValueError, match=r"weights must be {'params': \.\.\., 'synapses'"):
        plot.activity(net, wiring, weights['params'], state, BATCH, jax.random.key(1))


def test_a_confusion_matrix_has_numbers_where_there_is_room():
    few, many = (plot.confusion(np.eye(classes, dtype=int)) for classes in (3, 30))
    assert [text.get_text() for text in few.axes[0].texts].count('100') == 3
    assert not many.axes[0].texts


@pytest.mark.parametrize('classes', [3, 30])
def test_a_confusion_matrix_has_the_names_of_its_classes(classes):
    names = [repr(chr(65 + i)) for i in range(classes)]
    axes = plot.confusion(np.eye(classes, dtype=int), names).axes[0]
    assert [[tick.get_text() for tick in ticks] for ticks in (axes.get_xticklabels(), axes.get_yticklabels())] == [
        names,
        names,
    ]
