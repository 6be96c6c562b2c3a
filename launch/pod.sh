#!/usr/bin/env bash
# Starts a launcher on every worker of a TPU VM, from your own machine. Stop it and start it again: it goes on.
#
#   TPU=my-pod ZONE=us-central2-b launch/pod.sh launch.train --config=configs/cifar10.py --workdir=/mnt/shared/run
#
# On each worker there must be this repository with its environment (`make .venv/.ready`) in ~/rlra_jax (or $FOLDER), and the
# workdir on storage that all share, a mounted bucket for one: checkpoints are written together.
set -euo pipefail
if [[ -z "${TPU:-}" || -z "${ZONE:-}" || $# -eq 0 ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
program=$(printf '%q ' "$@")
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd ${FOLDER:-rlra_jax} && .venv/bin/python -m ${program}--coordinator=auto"
