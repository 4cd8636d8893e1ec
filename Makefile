# Every line here is one a person would type. `make setup` is run by the others when something it depends on changed.

PYTHON ?= python3
TORCH ?= torch
BIN := .venv/bin

.PHONY: demo view test setup lint bench gpu-check

demo: setup  ## fit 1,797 digits, read them from their weights, and show both
	$(BIN)/nf demo

view: demo  ## the demo's fields and its reader in the browser
	$(BIN)/nf view runs/demo/fields --beside digits --network runs/demo/reader

test: setup  ## all tests
	$(BIN)/pytest

setup: .venv/.installed  ## an environment in .venv with the tested versions, and the native module built

lint: setup  ## style, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup  ## every benchmark, appended to benchmarks/
	$(BIN)/nf bench fit --save
	$(BIN)/nf bench fit --memory --save
	$(BIN)/nf bench mesh --save
	$(BIN)/nf bench view --save

gpu-check:  ## what only a GPU can show, in 8 minutes: no install, but torch, triton, numpy, safetensors, pyarrow, imageio
	$(PYTHON) -m apps.bench.gpu

# The install is editable: Python files are used where they lie, so that only what is compiled or declared makes it
# stale. Torch goes first and by itself, so that another build of it can be chosen, as in
# `make setup TORCH=path/to/torch.whl`; constraints.txt then keeps every other package at its tested version.
NATIVE := $(wildcard CMakeLists.txt */kernels/csrc/*)

.venv/.installed: pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -c "from fitting.kernels import step_native; print('native backend:', step_native.missing() or 'built')"
	touch $@
