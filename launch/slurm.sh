#!/usr/bin/env bash
#SBATCH --job-name=rlra_jax
#SBATCH --requeue
# Starts a launcher as a SLURM job, one task a GPU (JAX gives each task the GPU of its local rank). A job that is
# requeued goes on from its last checkpoint.
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh launch.train --config=configs/cifar10.py \
#     --workdir=/shared/run
#
# Submit it from the repository, with its environment (`make .venv/.ready`) on storage that all nodes share.
set -euo pipefail
if [[ $# -eq 0 ]]; then
  sed -n '4,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
srun .venv/bin/python -m "$@" --coordinator=auto
