# rlra_jax with its programs, for CPUs or for NVIDIA GPUs (CUDA comes with the wheels; the host has driver and runtime):
#
#   docker build --target=cpu --tag=rlra_jax:cpu .
#   docker build --target=cuda --tag=rlra_jax:cuda .
#   docker run --rm --volume="$PWD/runs:/runs" rlra_jax:cpu rlra-train --config=digits --workdir=/runs/digits
#   docker run --rm --gpus=all --volume="$PWD/runs:/runs" rlra_jax:cuda rlra-train --config=digits --workdir=/runs/digits
FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid=1000 rlra && install --directory --owner=rlra /runs
WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE ./
COPY rlra_jax rlra_jax
COPY launch launch
COPY configs configs

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# What is installed is the folder above, whose setup.py says which versions.
# hadolint ignore=DL3013
RUN pip install '.[tune,cuda12]'
USER 1000
WORKDIR /runs
CMD ["rlra-train", "--help"]

FROM base AS cpu
# hadolint ignore=DL3013
RUN pip install '.[tune]'
USER 1000
WORKDIR /runs
CMD ["rlra-train", "--help"]
