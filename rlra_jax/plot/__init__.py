"""Pictures of networks and runs. matplotlib is imported once one is drawn."""

from rlra_jax.plot.activity import activity
from rlra_jax.plot.confusion import confusion
from rlra_jax.plot.curves import Curve, curves
from rlra_jax.plot.figure import save
from rlra_jax.plot.network import network

__all__ = ['Curve', 'activity', 'confusion', 'curves', 'network', 'save']
