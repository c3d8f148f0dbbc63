# Works on a bare Debian 12 with python3 (3.11 or newer), python3-venv and make. `.ci/run`, as root, installs those.
#
#   make demo    environment, installation, and an example that trains and compares models on handwritten digits
#   make test    environment, installation, and everything that checks

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECK := $(BIN)/python tools/check.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
LENGTH ?= 0.1
EXECUTOR ?= slurm-pool
.PHONY: help demo demo-slurm test lint types arch faults unit chaos-short docs-check integration map bench bench-slurm chaos env slurm-up slurm-down clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-13s %s\n' "$$name" "$$what"; done

demo: $(VENV)/.demo-installed  ## run the example: sweep of models over handwritten digits
	$(BIN)/python examples/digits/pipeline.py

test: env  ## everything that checks: lint, types, architecture, faults, tests
	@$(CHECK)

map: env  ## bring the map of the source in docs up to date
	@$(BIN)/python tools/write_map.py

lint: env  ## ruff, and the limits on the length of modules and functions
	@$(CHECK) lint
types: env  ## mypy and pyright
	@$(CHECK) types
arch: env  ## who may import whom
	@$(CHECK) arch
faults: env  ## every fault of docs/faults.md has a test or is listed as planned
	@$(CHECK) faults
unit: env  ## tests without disk and processes of their own
	@$(CHECK) unit
chaos-short: env  ## the laboratory at the length of `make test`
	@$(CHECK) chaos
docs-check: env  ## the README's code runs, the docs name every module
	@$(CHECK) docs
integration: env  ## whole runs, the command line, the example
	@$(CHECK) integration

chaos: env  ## the laboratory at LENGTH (default 0.1; 1 takes an hour): make chaos LENGTH=1
	@$(BIN)/python tools/chaos.py --length $(LENGTH)

bench: env  ## measure; takes minutes, wants a quiet machine
	@for name in import local wiring takeover; do script=benchmarks/bench_$$name.py; echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

bench-slurm: env  ## measure the executors for Slurm beside furu 0.0.12, on a cluster of its own; as root
	@$(BIN)/python benchmarks/bench_slurm.py

demo-slurm: env  ## the example on a Slurm cluster of its own, as root; EXECUTOR=slurm-pool or slurm-dag
	@$(BIN)/python tools/slurm_demo.py --executor $(EXECUTOR)

slurm-up:  ## start a Slurm cluster for tests (as root, see docs/slurm-testing.md)
	@$(PYTHON) tests/slurm/cluster.py up
slurm-down:  ## end it
	@$(PYTHON) tests/slurm/cluster.py down

env: $(VENV)/.installed  ## the environment with all tools, in .venv

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,examples,numpy]'
	@touch $(VENV)/.demo-installed $@

$(VENV)/.demo-installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[examples]'
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo not there)."; \
		echo "Name another one with: make PYTHON=/path/to/python3 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "The venv module of $(PYTHON) is not complete. On Debian and Ubuntu, as root:"; \
		echo "    apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:  ## remove the environment, caches and what the example computed
	rm -rf $(VENV) .stamps .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache furu-data furu-data-slurm build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
