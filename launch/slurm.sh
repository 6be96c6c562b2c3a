#!/usr/bin/env bash
#SBATCH --job-name=rlra_jax
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
# Starts a launcher as a SLURM job, one task a GPU (JAX gives each task the GPU of its local rank). A job that is
# preempted, or two minutes from the end of its time, saves a checkpoint, queues again and goes on from there.
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh launch.train --config=configs/cifar10.py \
#     --workdir=/shared/run --jax_compilation_cache_dir=/shared/compiled
#
# Submit it from the repository, with its environment (`make .venv/.ready`) on storage that all nodes share.
set -euo pipefail
if [[ $# -eq 0 ]]; then
  sed -n '6,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
status=0
srun .venv/bin/python -m "$@" --coordinator=auto || status=$?
if [[ $status -eq 75 ]]; then # a signal asked for a stop, and a checkpoint is saved
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
