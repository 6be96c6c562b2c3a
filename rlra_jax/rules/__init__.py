"""How error synapses learn.

Equation 5, the rule of the forward synapses, needs no entry here: for any operation it is the operation's own
vector-Jacobian product at the cotangent e (see `model/capture.py`), and for a dense one z_k^T e_i.
"""

from rlra_jax.rules.dx import Dx
from rlra_jax.rules.fixed import Fixed
from rlra_jax.rules.hebbian import Hebbian
from rlra_jax.rules.kolen_pollack import KolenPollack
from rlra_jax.rules.mirror import Mirror

__all__ = ['Dx', 'Fixed', 'Hebbian', 'KolenPollack', 'Mirror']
