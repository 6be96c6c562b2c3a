"""Several processes as one JAX program."""

import jax

from rlra_jax.validate import require


def leads() -> bool:
    """Whether this process is the one that writes files and logs."""
    return jax.process_index() == 0


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins this process with the others; `jax.devices()` then lists the devices of all. Call it before any other JAX.

    On CPUs, processes talk by Gloo. From here on JAX takes SIGTERM for a notice and goes on; a program that is to stop
    calls `experiment.stops.listen` afterwards, as the launchers do.

    Args:
      coordinator: 'host:port' of process 0; without it, everything is found out from the surroundings: TPU pods,
        SLURM and Open MPI tell.
      num_processes: how many there are.
      process_id: from 0; which one this is.

    Raises:
      ValueError: only some of the three are given, or they do not fit each other; or none is, and nothing tells them.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    came = (coordinator, num_processes, process_id)
    require(all(given) or not any(given), 'coordinator, num_processes and process_id', 'given together', came)
    if num_processes is not None and process_id is not None:
        require(0 <= process_id < num_processes, 'process_id', f'from 0 to {num_processes - 1}', process_id)
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        if any(given):
            raise
        raise ValueError(
            'coordinator, num_processes and process_id must be given where the surroundings do not tell them, as TPU '
            f'pods, SLURM and Open MPI do; one process alone needs none of them ({error})'
        ) from error
