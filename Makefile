# Baton's own commands. `make` alone lists them. Everything runs from any folder: make -C /path/to/baton run

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Asked of the shell, since make's own path functions split at blanks.
ROOT := $(shell cd "$$(dirname -- "$$(sed 's/^ *//' <<< "$(MAKEFILE_LIST)")")" && pwd)
BIN := $(ROOT)/.venv/bin
# PYTHON makes the virtual environment; unset: python3.11, else a python3 that is new enough.
export PYTHON
# Without PYTEST_ARGS the tests that start no engine run on all cores, then those that do, one after another:
# each engine wants a core of its own. PYTEST_ARGS narrows or deepens a run instead:
# make test PYTEST_ARGS="-m 'not live' -x"
PYTEST_ARGS ?=
# ARGS goes to the command: make run ARGS="--prefill 2"
ARGS ?=

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' "$(ROOT)/Makefile" | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

.PHONY: run
run: setup ## one real request through a disaggregated cluster on this machine, shown step by step
	@cd "$(ROOT)" && "$(BIN)/baton" demo $(ARGS)

.PHONY: test
test: setup check ## every check, then every test
ifeq ($(strip $(PYTEST_ARGS)),)
	@cd "$(ROOT)" && "$(BIN)/python" -m pytest -q -m "not live" -n auto --dist worksteal
	@cd "$(ROOT)" && "$(BIN)/python" -m pytest -m live
else
	@cd "$(ROOT)" && "$(BIN)/python" -m pytest $(PYTEST_ARGS)
endif

.PHONY: check
check: setup ## format, lint, types, layers, house rules, freshness of generated code
	@cd "$(ROOT)" && "$(BIN)/ruff" format --check --quiet . || { echo "check: run 'make fmt'" >&2; exit 1; }
	@cd "$(ROOT)" && "$(BIN)/ruff" check --quiet .
	@cd "$(ROOT)" && "$(BIN)/mypy" --no-error-summary
	@cd "$(ROOT)" && PYTHONPATH="$(ROOT)" "$(BIN)/lint-imports" --no-logo
	@cd "$(ROOT)" && "$(BIN)/python" -m pytest -q tests/house

.PHONY: fmt
fmt: setup ## format the code and mend what ruff can mend
	@cd "$(ROOT)" && "$(BIN)/ruff" format . && "$(BIN)/ruff" check --fix .

.PHONY: proto
proto: setup ## regenerate services/wire/generated from proto/
	@cd "$(ROOT)" && "$(BIN)/python" -m services.wire.generate

.PHONY: docs
docs: setup ## write what is made from the code again: settings, metrics, the chart's values and schema
	@cd "$(ROOT)" && "$(BIN)/python" -m services.cli.pages

.PHONY: bench
bench: setup ## run the benchmarks; their ratios depend on the machine, so no test does
	@cd "$(ROOT)" && shopt -s nullglob && for bench in tests/bench/bench_*.py; do \
		echo "== $$bench"; name="$${bench%.py}"; "$(BIN)/python" -m "$${name//\//.}" $(ARGS); done

.PHONY: bench-placement
bench-placement: setup ## all that is measured of placement: ARGS="--conversations FILE --code FILE", or --parts loads, or --help
	@cd "$(ROOT)" && "$(BIN)/python" -m tests.bench.placement_parts $(ARGS)

.PHONY: bench-planner
bench-planner: setup ## the planner beside other autoscalers and a bound: ARGS="--traces DIR --days 0.5 --json rows.json"
	@cd "$(ROOT)" && "$(BIN)/python" -m tests.bench.bench_planner $(ARGS)

.PHONY: soak
soak: setup ## break a real cluster for half an hour and draw what it holds: ARGS="--minutes 30 --out build/soak"
	@cd "$(ROOT)" && "$(BIN)/python" -m tests.bench.soak $(ARGS)

.PHONY: setup
setup: ## make .venv from the lock, or do nothing if it is up to date
	@"$(ROOT)/.ci/setup"

.PHONY: lock
lock: ## resolve pyproject.toml anew into .ci/lock (asks the package index; takes minutes)
	@cd "$(ROOT)" && python="$(BIN)/python"; [ -x "$$python" ] || python="$${PYTHON:-python3.11}"; \
		"$$python" .ci/relock.py

.PHONY: clean
clean: ## remove .venv, caches and build leftovers
	@cd "$(ROOT)" && rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache build dist *.egg-info
	@cd "$(ROOT)" && find services planner tests .ci -name __pycache__ -type d -prune -exec rm -rf {} +
