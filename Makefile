# Every line here is one a person would type. `make setup` is run by the others when something it depends on changed.

PYTHON ?= python3
TORCH ?= torch
BIN := .venv/bin

.PHONY: demo view test setup lint bench gpu-check gpu-readers

demo: setup  ## fit 1,797 digits, read them from their weights, and show both
	$(BIN)/nf demo

view: demo  ## the demo's fields and its reader in the browser
	$(BIN)/nf view runs/demo/fields --beside digits --network runs/demo/reader

# One process a core, each with one thread: most tests are small, and two threads of one small test only wait.
test: setup  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist worksteal

setup: .venv/.installed  ## an environment in .venv with the tested versions, and the native module built

lint: setup  ## style, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup  ## fits, meshes and the viewer against others, appended to benchmarks/
	$(BIN)/nf bench fit --save
	$(BIN)/nf bench fit --memory --save
	$(BIN)/nf bench mesh --save
	$(BIN)/nf bench view --save

gpu-check:  ## what only a GPU can show, in 8 minutes: no install, but torch, triton, numpy, safetensors, pyarrow, imageio
	$(PYTHON) -m apps.bench.gpu

gpu-readers:  ## accuracy from 55,000 fields and of MWT at its published size, on a GPU: the same packages
	$(PYTHON) -m apps.bench.gpu_readers

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
