"""rlra_jax: deep networks trained without backpropagation, by recursive local representation alignment."""

from rlra_jax import nn
from rlra_jax.capture import sites
from rlra_jax.check_cut import check_cut
from rlra_jax.diagnostics import diagnose
from rlra_jax.learners import LEARNERS
from rlra_jax.rules import RULES
from rlra_jax.site import Site
from rlra_jax.synapses import SYNAPSES
from rlra_jax.targets import total_discrepancy
from rlra_jax.train_step import TrainState, TrainStep, make_train_step
from rlra_jax.types import Aux, Batch, Edge, Feedback, Learner, LocalGrads, Region, Wiring
from rlra_jax.update import init_feedback, update_fn
from rlra_jax.wiring import wire, wire_blocks, wire_chain, wire_direct

__version__ = '0.1.0'

__all__ = [
    'LEARNERS',
    'RULES',
    'SYNAPSES',
    'Aux',
    'Batch',
    'Edge',
    'Feedback',
    'Learner',
    'LocalGrads',
    'Region',
    'Site',
    'TrainState',
    'TrainStep',
    'Wiring',
    'check_cut',
    'diagnose',
    'init_feedback',
    'make_train_step',
    'nn',
    'sites',
    'total_discrepancy',
    'update_fn',
    'wire',
    'wire_blocks',
    'wire_chain',
    'wire_direct',
]
