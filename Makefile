# make train: a trained network and a plot.   make test: lint, types, tests.   make help: all targets.

# The newest suitable Python that really runs: a name on PATH may be a launcher for a version that is not installed.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST := $(BIN)/python -m pytest -n 2 --dist loadgroup -q

.PHONY: train test test-full notebooks docs mutants lint format clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

train: $(READY)  ## train rec-LRA and backprop on the embedded digits, compare and plot
	$(BIN)/python -m launch.train --config=configs/digits.py:learner=rec_lra --workdir=runs/digits/rec_lra
	$(BIN)/python -m launch.train --config=configs/digits.py:learner=backprop --workdir=runs/digits/backprop
	$(BIN)/python -m launch.compare runs/digits/rec_lra runs/digits/backprop --plot=runs/digits/curves.png

# Half the time of these tests would be XLA's, optimising programs that run once; large pages make it quicker where
# glibc has them. test-full tests what users run.
test: lint  ## lint, types and every test that fits 15 minutes on 2 cores
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(TEST) -m 'not full'

test-full: lint  ## also the tests that take minutes or need the prepared data sets, and XLA's optimisations
	$(TEST)

notebooks: $(READY)-notebook  ## execute the notebooks and keep their outputs; minutes
	$(BIN)/python -m publish.notebooks

docs: $(READY)-docs  ## build the documentation site into build/site, without a network; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

mutants: $(READY)  ## break the algorithm in some 400 places, one at a time: which do the tests not notice? Hours
	$(BIN)/python -m benchmarks.mutants

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches, but no results
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(READY): setup.py
	@test -n '$(PYTHON)' || { echo 'rlra_jax needs Python 3.11 or newer with venv; none on PATH runs. make PYTHON=/path/to/python train'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

$(READY)-%: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
