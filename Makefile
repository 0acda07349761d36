# GNU make; `make help` lists the targets, `make PYTHON=python3.12 ...` chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICKSTART := runs/quickstart
# A test file stays on one core, where its tests share what is compiled; a process takes up to 2 GB.
# The files go in the order of tests/conftest.py, longest first, so that the processes end together.
PARALLEL := -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# What a user's shell may carry must not change what is installed or imported here.
unexport PYTHONHOME PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv quickstart report test fast lint types check api format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.stamp-dev ## Install lattice_ml, editable, with its plots and development tools

quickstart: $(VENV)/.stamp-plot ## Install, generate an ensemble at criticality and measure it
	$(BIN)/lattice-ml generate configs/phi4_critical.toml --out $(QUICKSTART)
	$(BIN)/lattice-ml measure $(QUICKSTART) --out $(QUICKSTART).report \
	    --json $(QUICKSTART).json

report: quickstart ## Compare two Langevin schemes with the quickstart: report.html, one rejected
	for scheme in leimkuhler_matthews euler; do \
	    $(BIN)/lattice-ml generate configs/langevin.toml --lattice.shape 32 32 \
	        --action.kappa 0.2705 --chain.n-configs 200 --sampler.step-size 0.05 \
	        --sampler.scheme $$scheme --out runs/$$scheme || exit; \
	done
	$(BIN)/lattice-ml compare $(QUICKSTART) runs/leimkuhler_matthews runs/euler \
	    --out runs/report || [ $$? -eq 1 ]

test: venv ## Run every test
	$(BIN)/python -m pytest $(PARALLEL)

fast: venv ## Run the tests that are not marked slow
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow'

lint: venv ## Check the style of the code
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: venv ## Check the types
	$(BIN)/mypy

api: venv ## Write docs/api.md from the docstrings
	$(BIN)/python docs/make_api.py

check: lint types test ## Run all that CI runs

format: venv ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the environment and all caches; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras, so that the quickstart need not wait for the development tools.
$(VENV)/.stamp-plot: EXTRAS := plot
$(VENV)/.stamp-dev: EXTRAS := plot,dev,images
$(VENV)/.stamp-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing lattice_ml[$(EXTRAS)] into $(VENV) (about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "lattice_ml needs Python 3.11 or later, got $(PYTHON): $$($(PYTHON) --version 2>&1)." \
	         "Choose another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
