"""Parallel recursion: updates spread over devices by batch, level or stage, or streamed through little memory."""

from rlra_jax.parallel.distributed import join
from rlra_jax.parallel.level import level_update_fn
from rlra_jax.parallel.mesh import batch_sharding, make_mesh, replicate, replicated, shard_batch
from rlra_jax.parallel.packing import PackedStep
from rlra_jax.parallel.stage import StagedStep, stage_step
from rlra_jax.parallel.stream import stream_step, stream_update_fn

__all__ = [
    'PackedStep',
    'StagedStep',
    'batch_sharding',
    'join',
    'level_update_fn',
    'make_mesh',
    'replicate',
    'replicated',
    'shard_batch',
    'stage_step',
    'stream_step',
    'stream_update_fn',
]
