# Every target sets up what it needs: a .venv in this checkout, with the versions in constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Errors only: pip warns at length about what a machine configures.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# One thread a test process: the processes share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
OUT ?= demo-output

.DEFAULT_GOAL := help
.PHONY: help setup test demo lint format clean

help:
	@echo "make setup   make .venv with the versions of constraints.txt, and install qfx in it"
	@echo "make test    set up .venv and run the tests        (ARGS='tests/graph -x' for some of them)"
	@echo "make demo    set up .venv, train a small CNN on scikit-learn's digits and quantize it (OUT=folder)"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff format and fix"
	@echo "make clean   remove .venv, caches and what the demo wrote (OUT=folder)"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "installing qfx and what it needs, in the versions of constraints.txt (minutes, the first time)"
	@$(PIP) -e '.[test,dev]'
	@echo "installing torchvision, for tests and benchmarks"
	@$(PIP) --no-deps torchvision==0.28.0 pillow
	@touch $@

test: setup
	@command -v dot > /dev/null || echo "note: graphviz's dot is missing (apt-get install graphviz): tests that render are skipped"
	$(PYTEST) $(ARGS)

demo: setup
	$(BIN)/python tools/demo.py --out $(OUT)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf $(OUT)/stages $(OUT)/report.txt $(OUT)/report.html
	rmdir $(OUT) 2> /dev/null || true
