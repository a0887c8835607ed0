# The commands of a newcomer: make demo, make test, make setup.  All of them set up first; set-up is one
# `test -f` when nothing changed since the last time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is measured: snapfs installed as users have it.  Of an editable installation each command pays for finding its modules.
BENCH := .bench
READY := $(VENV)/.ready
LOCK := requirements.lock
# Workers of the quick suite: one a core.  PYTEST_ARGS passes more, e.g. make test PYTEST_ARGS='-k rename'.
JOBS ?= auto
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup test soak demo lint format generate bench bench-full wheel peers plots lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Debian packages, .venv, everything installed

$(READY): pyproject.toml $(LOCK) scripts/setup.sh
	PYTHON='$(PYTHON)' scripts/setup.sh $(VENV) $(LOCK)
	touch $@

test: $(READY)  ## the quick test suite
	$(BIN)/python -m pytest -n $(JOBS) -m 'not soak' $(PYTEST_ARGS)

soak: $(READY)  ## the tests that run for minutes
	$(BIN)/python -m pytest -m soak --timeout 3600 $(PYTEST_ARGS)

demo: $(READY)  ## data and models that follow git, on real data
	$(BIN)/python docs/examples/digits/demo.py

lint: $(READY)  ## ruff, mypy, import-linter, buf; what is generated is current
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint proto
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/python scripts/generate.py --check

format: $(READY)  ## lay the code out
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/buf format --write proto

generate: $(READY)  ## what is made from other files: the stubs of proto/, the synchronous client
	$(BIN)/python scripts/generate.py

bench: wheel  ## the measurements of benchmarks/, short: about 10 minutes (as root, after make peers)
	$(BENCH)/bin/python -m benchmarks $(BENCH_ARGS)

bench-full: wheel  ## the measurements at full size: 75 minutes, and 40 GB of disk under TMPDIR (ended before: BENCH_ARGS=--resume)
	$(BENCH)/bin/python -m benchmarks --full $(BENCH_ARGS)

wheel: $(READY)  ## snapfs as it is here, installed in .bench as users install it
	test -x $(BENCH)/bin/python || $(BIN)/python -m venv $(BENCH)
	rm -rf build
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet --constraint $(LOCK) '.[bench]'

peers: $(READY)  ## what the measurements compare with, as far as Debian and PyPI have it
	PYTHON='$(PYTHON)' scripts/peers.sh .peers

plots: $(READY)  ## docs/benchmarks from docs/benchmarks/data
	$(BIN)/python -m benchmarks.plots

lock: $(READY)  ## pin the newest versions that fit into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --upgrade \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet --output-file $(LOCK)

clean:  ## remove what set-up and the tools made
	rm -rf $(VENV) $(BENCH) .peers build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
