# make demo: the main job in a minute and a half.  make test: the tests.  make lint: the style.  make setup: the environment.

VENV ?= .venv
JOBS ?= 2
# The first Python of at least 3.10; set PYTHON=/path/to/python3 for another one.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then echo $$p; break; fi; done)
# Two states of the environment: what a user installs, and that with all extras and the tools of the tests.
INSTALLED := $(VENV)/.installed
EVERYTHING := $(VENV)/.everything
INSTALL = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e

.PHONY: help setup demo test lint
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
