"""rlra_jax: deep networks trained without backpropagation, by recursive local representation alignment."""

from rlra_jax import nn, nnx, parallel
from rlra_jax.diagnostics import diagnose
from rlra_jax.edges import Edge, Wiring
from rlra_jax.learners import LEARNERS
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.find_activations import Activation, find_activations
from rlra_jax.model.regions import sites
from rlra_jax.model.site import Site
from rlra_jax.recursion.feedback import init_feedback
from rlra_jax.recursion.targets import total_discrepancy
from rlra_jax.recursion.update import update_fn
from rlra_jax.rules import Dx, Fixed, Hebbian, KolenPollack, Mirror
from rlra_jax.summary import summary
from rlra_jax.synapses import Channel, ConvTranspose, Dense, Grid, Path, Token
from rlra_jax.train_step import TrainState, TrainStep, make_train_step
from rlra_jax.types import Aux, Batch, Feedback, Learner, LocalGrads, Region
from rlra_jax.wiring.auto import wire_auto
from rlra_jax.wiring.choose import kind_by_shape, kind_pooled, kind_straight
from rlra_jax.wiring.levels import wire
from rlra_jax.wiring.wirings import wire_blocks, wire_chain, wire_direct, wire_modules, wire_reverse

__version__ = '0.1.0'

__all__ = [
    'LEARNERS',
    'Activation',
    'Aux',
    'Batch',
    'Channel',
    'ConvTranspose',
    'Dense',
    'Dx',
    'Edge',
    'Feedback',
    'Fixed',
    'Grid',
    'Hebbian',
    'KolenPollack',
    'Learner',
    'LocalGrads',
    'Mirror',
    'Path',
    'Region',
    'Site',
    'Token',
    'TrainState',
    'TrainStep',
    'Wiring',
    'check_cut',
    'diagnose',
    'find_activations',
    'init_feedback',
    'kind_by_shape',
    'kind_pooled',
    'kind_straight',
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
