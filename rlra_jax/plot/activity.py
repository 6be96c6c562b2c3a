"""What regions do, beside what their errors ask them to do."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from rlra_jax.edges import Wiring
from rlra_jax.learners.rec_lra import update_fn
from rlra_jax.loss import softmax_cross_entropy
from rlra_jax.model.net import Net
from rlra_jax.plot.figure import GREY, new
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.update import look, recur
from rlra_jax.types import Array, Batch, Loss, State, Weights
from rlra_jax.validate import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
_BINS = 40
_DEFAULTS = Options()


def activity(
    net: Net,
    wiring: Wiring,
    weights: Weights,
    state: State,
    batch: Batch,
    key: Array,
    options: Options = _DEFAULTS,
    *,
    loss: Loss = softmax_cross_entropy,
) -> 'Figure':
    """A histogram for each hidden region: its activity z, grey, and its target y (Eq. 3), a line.

    Args:
      net: what `regions` returned.
      wiring: the error pathways.
      weights: as the learner's init returns them.
      state: the same.
      batch: what the call and the loss read; all its examples, and all units of a region, are counted together.
      key: for dropout.
      options: the learner's.
      loss: the learner's.

    Raises:
      ValueError: wiring, weights, state, batch or key do not fit.
    """
    require(isinstance(wiring, Wiring), 'wiring', 'a Wiring, as wire_blocks(net) returns it', wiring)
    jax.eval_shape(update_fn(net, wiring, options, loss=loss).update, weights, state, batch, key)  # checks them
    signals = recur(look(net, wiring, options, loss, weights, state, batch, key)[2])
    reached = {edge.target for edge in wiring.edges}
    names = [region.name for region in net.regions if region.name in reached]
    rows = -(-len(names) // _COLUMNS)
    figure, grid = new(
        3 * min(len(names), _COLUMNS), 2 * rows, nrows=rows, ncols=min(len(names), _COLUMNS), squeeze=False
    )
    for axis, name in zip(grid.flat, names, strict=False):
        z, y = (np.asarray(values[name], np.float32).ravel() for values in (signals.z, signals.y))
        bins = np.histogram_bin_edges(np.concatenate([z, y]), _BINS)
        axis.hist(z, bins, color=GREY, label='activity z')
        axis.hist(y, bins, histtype='step', color='C3', linewidth=1.2, label='target y')
        axis.set_yscale('log')
        axis.yaxis.set_minor_formatter('')
        axis.set_title(name, size=9)
        axis.tick_params(labelsize=7)
        axis.locator_params(axis='x', nbins=4)
    for axis in grid.flat[len(names) :]:
        axis.set_axis_off()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc='outside lower center', ncols=2, fontsize=8)
    figure.supylabel('units x examples', size=8)
    return figure
