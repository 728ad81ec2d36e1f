# Everything a newcomer types. Each target first makes or mends .venv (tools/install.py); when that is done already it takes
# a moment. `make EXTRA=gpu run` installs vLLM for GPUs in the place of vLLM for CPUs.
SHELL := /bin/sh
VENV := .venv
EXTRA :=
PYTHONS := $(VENV)/bin/python python3.11 python3.12 python3.13 python3.14 python3
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
ARGS :=
# Of tests: one begins with the end-to-end tests, which mostly wait; tests/conftest.py says who does what.
WORKERS := 2

.DEFAULT_GOAL := help
.PHONY: help install run test check bench evaluate clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Make or mend the virtual environment .venv, and nothing else
	@for python in $(PYTHONS); do \
	  if "$$python" -ESc 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec "$$python" -ES tools/install.py --venv $(VENV) $(if $(EXTRA),--extra $(EXTRA)); \
	  fi; \
	done; \
	echo 'Baseload needs Python 3.11 or newer. On Debian: sudo apt install python3 python3-venv' >&2; exit 1

run: install ## Start Baseload on this machine (options in ARGS="...")
	@exec $(BIN)/baseload serve $(ARGS)

test: install ## Run all tests that need nothing but this repository
	$(PYTEST) -n $(WORKERS) --no-loadscope-reorder -m "not evaluate" $(ARGS)

check: install ## Look at the code without running it: ruff, mypy, import contracts, house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(PYTEST) tests/house

bench: install ## Measure dispatch, gateway and engines on this machine
	OMP_NUM_THREADS=1 $(BIN)/python -m bench $(ARGS)

evaluate: install ## Replay public traces and prices, where ../shared/data has them
	@if [ -d ../shared/data ]; then \
	  code=0; $(PYTEST) -m evaluate $(ARGS) || code=$$?; \
	  if [ $$code -eq 5 ]; then echo 'evaluate: no test is marked so yet'; code=0; fi; exit $$code; \
	else echo 'evaluate: nothing to do, there is no ../shared/data here'; fi

clean: ## Remove caches and what builds leave; the environment (.venv) and the ledger (.baseload) stay
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
