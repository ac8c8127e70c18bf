# p104d: `make` alone lists what there is.
#
#   PYTHON=python3.12 make test     another Python (3.11 or newer)
#   sudo make install DESTDIR=/x    install below /x, for packagers and tests

PYTHON ?= python3
DESTDIR ?=
VENV := .venv
BENCH_VENV := .venv-bench
BIN := $(CURDIR)/$(VENV)/bin
WORKERS ?= 2
MINUTES ?= 10
ARGS ?=

.NOTPARALLEL:
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: help venv demo test torture soak lint ptx ptx-check check format bench wheel install uninstall clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo        start a daemon (on the real cards, else on a simulated rig), run sample jobs, leave nothing behind'
	@echo 'make test        the tests'
	@echo 'make torture     the proofs, in their long form where they have one: 10,000 kills, 100,000 fuzzed requests (hours)'
	@echo 'make soak        MINUTES=10 of mixed load with faults on a simulated rig of 12 cards; what grew meanwhile'
	@echo 'make check       linters, types, import layers, then the tests: what CI runs'
	@echo 'make bench       the budgets, beside task-spooler, HyperQueue and huey'
	@echo 'make ptx         compile the memory test kernels again (make ptx-check: they are as compiled, and assemble)'
	@echo 'make wheel       dist/p104d-*.whl'
	@echo 'make venv        .venv with everything for development'
	@echo 'make format      let ruff format and sort'
	@echo 'make clean       remove what make made here'
	@echo 'sudo make install     the service, in /opt/p104d (upgrades too)'
	@echo 'sudo make uninstall   remove it; queue, logs and configuration stay'

# One stamp a set of extras: the second call costs nothing, and a changed pyproject.toml installs again.
$(VENV)/.stamp-%: pyproject.toml tools/venv.sh
	@PYTHON='$(PYTHON)' tools/venv.sh '$(VENV)' '$*'

$(BENCH_VENV)/.stamp-bench: pyproject.toml tools/venv.sh
	@PYTHON='$(PYTHON)' tools/venv.sh '$(BENCH_VENV)' bench

venv: $(VENV)/.stamp-demo $(VENV)/.stamp-test $(VENV)/.stamp-check

demo: $(VENV)/.stamp-demo
	@PATH='$(BIN)':"$$PATH" '$(BIN)/python' -m demo $(ARGS)

test: $(VENV)/.stamp-demo $(VENV)/.stamp-test
	@PATH='$(BIN)':"$$PATH" '$(BIN)/python' -m pytest -n $(WORKERS) $(ARGS)

torture: $(VENV)/.stamp-demo $(VENV)/.stamp-test
	@PATH='$(BIN)':"$$PATH" P104_TORTURE=1 '$(BIN)/python' -m pytest -n $(WORKERS) -m torture $(ARGS)

soak: $(VENV)/.stamp-demo $(VENV)/.stamp-test
	@PATH='$(BIN)':"$$PATH" '$(BIN)/python' -m soak --minutes $(MINUTES) $(ARGS)

lint: $(VENV)/.stamp-demo $(VENV)/.stamp-test $(VENV)/.stamp-check
	'$(BIN)/ruff' check .
	'$(BIN)/ruff' format --check .
	'$(BIN)/mypy' --strict
	'$(BIN)/mypy' --strict demo bench soak
	'$(BIN)/lint-imports'

ptx: $(VENV)/.stamp-ptx
	'$(BIN)/python' tools/ptx.py

ptx-check: $(VENV)/.stamp-ptx
	'$(BIN)/python' tools/ptx.py --check

check: lint ptx-check test

format: $(VENV)/.stamp-check
	'$(BIN)/ruff' check --fix .
	'$(BIN)/ruff' format .

bench: $(BENCH_VENV)/.stamp-bench
	@PATH='$(CURDIR)/$(BENCH_VENV)/bin':"$$PATH" '$(CURDIR)/$(BENCH_VENV)/bin/python' -m bench $(ARGS)

wheel:
	@PYTHON='$(PYTHON)' tools/wheel.sh dist

install:
	@PYTHON='$(PYTHON)' DESTDIR='$(DESTDIR)' tools/install.sh

uninstall:
	@DESTDIR='$(DESTDIR)' tools/uninstall.sh

clean:
	rm -rf '$(VENV)' '$(BENCH_VENV)' build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
