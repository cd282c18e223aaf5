# make demo: the main job in about two minutes.  make test: the tests.  make torture: faults at length.  make lint: the style.  make setup: the environment.

VENV ?= .venv
JOBS ?= 2
# The first Python of at least 3.10; set PYTHON=/path/to/python3 for another one.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then echo $$p; break; fi; done)
# Two states of the environment: what a user installs, and that with all extras and the tools of the tests.
INSTALLED := $(VENV)/.installed
EVERYTHING := $(VENV)/.everything
INSTALL = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e

.PHONY: help setup demo test lint torture lock audit
.DEFAULT_GOAL := help

help:
	@sed -n 1p Makefile | cut -c3-

setup: $(EVERYTHING)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 or newer was found; install one or set PYTHON" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	@touch $@

$(EVERYTHING): $(INSTALLED)
	$(INSTALL) '.[dev,all]'
	@touch $@

demo: $(INSTALLED)
	$(VENV)/bin/gantransfer demo

# One thread per process: small networks gain nothing from more, and the processes share the cores.
test: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS)

lint: setup
	$(VENV)/bin/ruff check .

# Everything that must survive, tried at length (under 30 minutes on two idle cores), recorded in results/reliability.
# ARGUMENTS="--only kills,fuzz --fuzz.seconds 10" and the like make it shorter. What atheris needs is tried to install;
# without it the fuzzing mutates blindly, and says so.
torture: setup
	$(INSTALL) '.[torture]' || echo "note: the extra torture cannot be installed; fuzzing goes on without atheris"
	cd benchmarks && OMP_NUM_THREADS=1 PYTHONPATH=.. $(abspath $(VENV))/bin/python -m torture $(ARGUMENTS)

# requirements.lock: versions and hashes of everything but torch and what torch alone brings (its builds differ).
OF_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc \
	cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
lock: setup
	$(INSTALL) '.[torture]'
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 --generate-hashes --quiet \
		-c constraints.txt --custom-compile-command 'make lock' $(addprefix --no-emit-package ,$(OF_TORCH)) \
		-o requirements.lock

# Known vulnerabilities of what is locked; fails where the service cannot be reached or lacks a package.
audit: setup
	$(INSTALL) '.[torture]'
	$(VENV)/bin/pip-audit -r requirements.lock --no-deps --disable-pip --strict
