"""rlra_jax: deep networks trained without backpropagation, by recursive local representation alignment."""

from rlra_jax import nn, nnx, parallel
from rlra_jax.diagnostics import diagnose
from rlra_jax.learners import LEARNERS
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.find_activations import Activation, find_activations
from rlra_jax.model.regions import sites
from rlra_jax.model.site import Site
from rlra_jax.recursion.feedback import init_feedback
from rlra_jax.recursion.targets import total_discrepancy
from rlra_jax.recursion.update import update_fn
from rlra_jax.rules.local import RULES
from rlra_jax.summary import summary
from rlra_jax.synapses.straight import SYNAPSES
from rlra_jax.train_step import TrainState, TrainStep, make_train_step
from rlra_jax.types import Aux, Batch, Edge, Feedback, Learner, LocalGrads, Region, Wiring
from rlra_jax.wiring.auto import wire_auto
from rlra_jax.wiring.wirings import (
    kind_by_shape,
    kind_pooled,
    wire,
    wire_blocks,
    wire_chain,
    wire_direct,
    wire_modules,
    wire_reverse,
)

__version__ = '0.1.0'

__all__ = [
    'LEARNERS',
    'RULES',
    'SYNAPSES',
    'Activation',
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
    'find_activations',
    'init_feedback',
    'kind_by_shape',
    'kind_pooled',
    'make_train_step',
    'nn',
    'nnx',
    'parallel',
    'sites',
    'summary',
    'total_discrepancy',
    'update_fn',
    'wire',
    'wire_auto',
    'wire_blocks',
    'wire_chain',
    'wire_direct',
    'wire_modules',
    'wire_reverse',
]
