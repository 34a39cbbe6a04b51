# Two commands for a bare machine: `make demo` and `make test`. Each makes .venv and installs what it needs, torch first:
# an unpinned torch may bring several gigabytes of GPU libraries.
TORCH  ?= torch==2.13.0
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint unit check bench clean

demo: $(VENV)/.core
	$(BIN)/rheos demo --out demo

test: lint unit

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks tools conftest.py
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/rheos check --all

bench: $(VENV)/.bench
	for room in core training couplings samplers solvers; do OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$$room || exit 1; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rheos needs Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python cannot make environments with pip: install the package python3-venv (apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# Peers to be measured against; without what they would bring along, which is here already or not needed.
$(VENV)/.bench: $(VENV)/.dev benchmarks/peers.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	@touch $@

clean:
	rm -rf $(VENV) demo rheos-check .pytest_cache .ruff_cache .import_linter_cache .hypothesis
