"""Every training algorithm, by the name that configs use. A factory is called as factory(net, **options)."""

from collections.abc import Callable

from rlra_jax.learners.backprop import backprop
from rlra_jax.learners.difference_target_prop import difference_target_prop
from rlra_jax.learners.direct_feedback_alignment import direct_feedback_alignment
from rlra_jax.learners.equilibrium_prop import equilibrium_prop
from rlra_jax.learners.feedback_alignment import feedback_alignment
from rlra_jax.learners.kolen_pollack import kolen_pollack
from rlra_jax.learners.lra_e import lra_e
from rlra_jax.learners.mixed import fa_bp, fa_wm, ss_bp
from rlra_jax.learners.rec_lra import update_fn
from rlra_jax.learners.sign_symmetry import sign_symmetry
from rlra_jax.learners.target_prop import target_prop
from rlra_jax.learners.weight_mirror import weight_mirror
from rlra_jax.types import Learner
from rlra_jax.validate import Table

LEARNERS: dict[str, Callable[..., Learner]] = Table(
    'learner',
    {
        'backprop': backprop,
        'difference_target_prop': difference_target_prop,
        'direct_feedback_alignment': direct_feedback_alignment,
        'equilibrium_prop': equilibrium_prop,
        'fa_bp': fa_bp,
        'fa_wm': fa_wm,
        'feedback_alignment': feedback_alignment,
        'kolen_pollack': kolen_pollack,
        'lra_e': lra_e,
        'rec_lra': update_fn,
        'sign_symmetry': sign_symmetry,
        'ss_bp': ss_bp,
        'target_prop': target_prop,
        'weight_mirror': weight_mirror,
    },
)

__all__ = ['LEARNERS']
