"""How every learner is tested. A new learner adds one line to CASES and inherits the suites in tests/learners."""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """How a learner is tested. max_error: % of digits after 20 epochs; guessing: 90."""

    max_error: float
    options: dict[str, Any] = {}  # noqa: RUF012 read only
    descends: bool = True  # whether theory promises that each region's update alone lowers the loss


CASES = {
    'backprop': Case(6.0),
    'difference_target_prop': Case(8.0),
    'direct_feedback_alignment': Case(6.0),
    'equilibrium_prop': Case(10.0),
    'fa_bp': Case(8.0),
    'fa_wm': Case(8.0),
    'feedback_alignment': Case(8.0),
    'kolen_pollack': Case(10.0),
    'lra_e': Case(8.0),
    'rec_lra': Case(6.0, {'mirror_every': 2}),
    'sign_symmetry': Case(12.0),
    'ss_bp': Case(8.0),
    # An inverse that is not perfect moves targets away from the activity even where nothing is to be mended.
    'target_prop': Case(60.0, descends=False),
    'weight_mirror': Case(8.0),
}
