# Everything runs in .venv, which these targets make and keep up to date by themselves.
# Needed on the machine: make and Python 3.11 or newer.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export UV_PYTHON_DOWNLOADS := never
export NO_MKDOCS_2_WARNING := 1
# Tests start hundreds of processes: without these files each would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check format docs bench clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)

$(READY): pyproject.toml uv.lock
	@test -n "$(PYTHON)" || { echo "Taskloom needs Python 3.11 or newer; none was found."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==0.13.9"
	@$(BIN)/uv sync --quiet --frozen --inexact
	@touch $@

demo: $(READY) ## Index a folder as a durable flow on SQLite: FOLDER=… for another one
	@$(BIN)/taskloom demo $(FOLDER)

test: $(READY) ## Run all tests
	@$(BIN)/python -m pytest -q -n 4 --dist worksteal --ignore tests/faults
	@$(BIN)/python -m pytest -q -n 3 --dist load -m "not alone and not mongodb" tests/faults
	@$(BIN)/python -m pytest -q -n 2 --dist load -m mongodb tests/faults
	@$(BIN)/python -m pytest -q -m alone tests/faults

test-long: $(READY) ## The long versions: 100,000 simulations, 10,000 examples of each barrier, 1,000 cuts
	@TASKLOOM_TEST_EXAMPLES=10000 $(BIN)/python -m pytest -q -n 2 tests/conformance/test_barrier_machine.py
	@TASKLOOM_TEST_LONG=1 $(BIN)/python -m pytest -q -n 2 tests/faults/test_servers.py tests/faults/test_cuts.py
	@TASKLOOM_SIMULATIONS=100000 $(BIN)/python -m pytest -q -n auto --dist load tests/simulation

check: $(READY) ## Formatting, lint, types, architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(READY) ## Build the documentation into site/
	@$(BIN)/mkdocs build --strict --quiet

bench: $(READY) ## Measure this library beside its peers: PARTS="drain-sqlite add" for some, ARGS=--quick
	@$(BIN)/uv sync --quiet --frozen --inexact --group bench
	@$(BIN)/python -m benchmarks $(ARGS) $(PARTS)

clean: ## Remove what these targets made
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
