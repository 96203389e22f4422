# make run    a node at work, in front of an embedded root registry (or PARENT=https://… IMAGE=name:tag)
# make test   everything: lint, all suites, real clients
# make help   the rest

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find core proxy -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
SOURCES := $(shell find core proxy -name '*.py')
COMPILE := CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe \
	--strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links
LISTEN ?= localhost:5000
PARENT ?=
IMAGE ?=

.PHONY: help build run test torture soak defences mutate lint tools lock bench clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

build: $(VENV)/.built $(VENV)/.compiled  ## leaves the command at .venv/bin/holdfast

# An interrupted or moved environment is made again; a good one is kept.
$(VENV)/.locked: requirements.lock
	@python=$$(tools/packages python); tools/packages build; \
	$(BIN)/python -c 'import pip' 2>/dev/null && $(BIN)/pip --version >/dev/null 2>&1 || \
		{ echo "creating $(VENV)"; "$$python" -m venv --clear $(VENV); }
	@echo "installing what requirements.lock names"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

# --no-build-isolation: the build tools are the locked ones
$(VENV)/.installed: $(VENV)/.locked pyproject.toml setup.py
	@echo "installing holdfast"
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

# An editable install does not rebuild by itself; setup.py compiles only what changed.
$(VENV)/.built: $(VENV)/.installed $(NATIVE)
	@echo "building the native modules"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# As pip does for a package: without it, where Python may write no byte code, each process of a node reads all source
# again (half a second of processor and 4 MB a start).
$(VENV)/.compiled: $(VENV)/.installed $(SOURCES)
	@$(BIN)/python -m compileall -q core proxy
	@touch $@

$(VENV)/.dev: $(VENV)/.locked requirements-dev.lock
	@echo "installing what requirements-dev.lock names"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

run: build  ## a node in front of an embedded root, or of PARENT=https://… (IMAGE=name:tag, LISTEN=host:port)
	@$(BIN)/holdfast demo --listen $(LISTEN) $(if $(PARENT),--parent $(PARENT)) $(if $(IMAGE),--image $(IMAGE))

test: build $(VENV)/.dev tools lint  ## everything; what this machine cannot run, and what fails beside others alone, is listed at the end
	@rm -f .pytest_cache/v/cache/lastfailed
	@$(BIN)/python -m pytest --quiet --durations=20 || PYTHONPATH=tests $(BIN)/python -m support.second_run $$?

torture: build $(VENV)/.dev tools  ## power cuts, kills at every write, bit flips, full disks (root), a 5 GiB layer, 100,000 seeds of sync, a busy child for five minutes; writes benchmarks/results/
	@HOLDFAST_LAYER_GIB=5 $(BIN)/python -m pytest --quiet tests/clients/test_push_large.py
	@HOLDFAST_SYNC_SEEDS=100000 $(BIN)/python -m pytest --quiet tests/sync/test_simulator.py
	@HOLDFAST_BUSY_MINUTES=5 $(BIN)/python -m pytest --quiet tests/network/test_busy_child.py
	@PYTHONPATH=tests $(BIN)/python -m torture

soak: build $(VENV)/.dev  ## a working set of three budgets for HOURS (1), with evictions, collections, scrubs and kills; prints memory, descriptors, index and disk
	@HOLDFAST_CHURN_MINUTES=$$(( $(or $(HOURS),1) * 60 )) $(BIN)/python -m pytest --quiet -rP tests/faults/test_churn.py

defences: build $(VENV)/.dev  ## takes every defence of docs/security.md out, one at a time, and prints those that no test missed; eight minutes (THREATS="42 47": these alone)
	@PYTHONPATH=tests $(BIN)/python -m mutations.defence_run $(THREATS)

mutate: build $(VENV)/.dev  ## makes every small change of the modules that promises hang on, one at a time, and prints those that no test noticed; a minute or two a module that decides, far longer one with a disk; goes on where it was broken off (MODULES="garbage planner": these alone; docs/mutation.md)
	@PYTHONPATH=tests $(BIN)/python -m mutations.module_run $(MODULES)

lint: build $(VENV)/.dev  ## ruff, mypy, import-linter, the structure's bounds, the source rules and the citations
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports | tail -n 3
	@$(BIN)/python tools/structure.py --check
	@$(BIN)/python -m pytest --quiet tests/test_source.py tests/test_citations.py

tools:  ## the clients and servers that the black-box tests use
	@tools/packages bench

bench: build $(VENV)/.dev tools  ## Holdfast beside its peers; writes benchmarks/results/ and the front page
	@$(BIN)/python -m benchmarks

lock: $(VENV)/.dev  ## choose versions anew
	@$(COMPILE) --upgrade --extra build -o requirements.lock pyproject.toml
	@$(COMPILE) --upgrade --extra build --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean:  ## all that was built; the environment stays
	@rm -rf build dist *.egg-info $(VENV)/.built $(VENV)/.compiled .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find core proxy -name '*.so' -delete -o -name '*.pyc' -delete
