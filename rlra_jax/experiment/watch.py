"""Where an epoch's time and memory go, and traces of single steps for a profiler."""

import contextlib
import math
import os

import jax
from etils import epath

from rlra_jax.experiment.epoch import Run, Trainable
from rlra_jax.experiment.storage import is_local
from rlra_jax.parallel.distributed import leads
from rlra_jax.validate import require, require_count

FIELDS = (
    'step_seconds',  # mean time of a training step
    'step_share',  # of the epoch's time, 0 to 1: training steps, with what they wait for
    'input_share',  # of the epoch's time, 0 to 1: waiting for examples to be read, to train or to validate
    'peak_bytes',  # the most that a device has held since the process began; NaN where it does not tell, as on CPUs
)


def watched(trainable: Trainable, seconds: float) -> dict[str, float]:
    """FIELDS, of the epoch that was trained last.

    Args:
      trainable: which trained it.
      seconds: that it took, without those of earlier sittings.
    """
    spent = trainable.spent
    shares = spent.stepping / seconds, spent.waiting / seconds
    return dict(zip(FIELDS, (spent.stepping / max(spent.steps, 1), *shares, peak_bytes()), strict=True))


def peak_bytes() -> float:
    """The most that one of this process's devices has held, NaN if none of them tells."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return float(max((told['peak_bytes_in_use'] for told in stats if 'peak_bytes_in_use' in told), default=math.nan))


def check_profile(profile: int, steps: int, workdir: epath.Path, *, finished: bool) -> None:
    """Checks, before anything is computed, that steps can be traced.

    Raises:
      ValueError: there are fewer in an epoch, or none left, or the workdir is a bucket, into which no traces go.
    """
    require_count('profile', profile, low=0)
    require(profile <= steps, 'profile', f'at most {steps}, the steps of an epoch', profile)
    require(not (profile and finished), 'profile', f'0 for {workdir}, whose run is finished', profile)
    require(not profile or is_local(workdir), 'profile', f'0 for {workdir}: no traces go into buckets', profile)


def trace_steps(trainable: Trainable, run: Run, steps: int, folder: str | os.PathLike[str]) -> None:
    """Writes a trace of the first steps of an epoch, which xprof and TensorBoard's profile plugin open.

    Its state is thrown away: training goes on as if nothing had been. Step by step the examples are read, too. The
    first process alone writes.

    Args:
      trainable: what is traced.
      run: the start.
      steps: how many.
      folder: gets plugins/profile/TIME/HOST.xplane.pb.
    """
    trainable.rehearse(run, 1)  # compiles
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions would bury the rest
    with jax.profiler.trace(folder, profiler_options=options) if leads() else contextlib.nullcontext():
        trainable.rehearse(run, steps)
