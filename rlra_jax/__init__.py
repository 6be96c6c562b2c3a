"""rlra_jax: deep networks trained without backpropagation, by recursive local representation alignment."""

from rlra_jax import nn, nnx, parallel, plot
from rlra_jax.diagnostics import diagnose
from rlra_jax.edges import Carries, Edge, Wiring
from rlra_jax.learners import LEARNERS
from rlra_jax.learners.rec_lra import update_fn
from rlra_jax.loss import smoothed_cross_entropy, softmax_cross_entropy
from rlra_jax.model.check_cut import check_cut
from rlra_jax.model.find_activations import Activation, find_activations
from rlra_jax.model.net import Net
from rlra_jax.model.regions import regions
from rlra_jax.model.site import Site
from rlra_jax.recursion.options import Options
from rlra_jax.recursion.targets import total_discrepancy
from rlra_jax.rules import Dx, Fixed, Hebbian, KolenPollack, Mirror
from rlra_jax.summary import summary
from rlra_jax.synapses import Channel, ConvTranspose, Dense, Each, Grid, Path, Token
from rlra_jax.train_step import TrainState, TrainStep, make_train_step, optimizers
from rlra_jax.types import Aux, Learner, Region, State
from rlra_jax.wiring.auto import wire_auto
from rlra_jax.wiring.choose import kind_by_shape, kind_pooled, kind_straight, kind_tokens
from rlra_jax.wiring.levels import wire
from rlra_jax.wiring.time import wire_time
from rlra_jax.wiring.wirings import wire_blocks, wire_chain, wire_direct, wire_modules, wire_reverse

__version__ = '0.2.0'

__all__ = [
    'LEARNERS',
    'Activation',
    'Aux',
    'Carries',
    'Channel',
    'ConvTranspose',
    'Dense',
    'Dx',
    'Each',
    'Edge',
    'Fixed',
    'Grid',
    'Hebbian',
    'KolenPollack',
    'Learner',
    'Mirror',
    'Net',
    'Options',
    'Path',
    'Region',
    'Site',
    'State',
    'Token',
    'TrainState',
    'TrainStep',
    'Wiring',
    'check_cut',
    'diagnose',
    'find_activations',
    'kind_by_shape',
    'kind_pooled',
    'kind_straight',
    'kind_tokens',
    'make_train_step',
    'nn',
    'nnx',
    'optimizers',
    'parallel',
    'plot',
    'regions',
    'smoothed_cross_entropy',
    'softmax_cross_entropy',
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
    'wire_time',
]
