# Two commands set everything up on a fresh machine: `make demo` and `make test`. Both create .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch's CPU wheels are about 200 MB; the default index of a Linux machine pulls about 3 GB of CUDA libraries beside them.
TORCH_CPU := https://download.pytorch.org/whl/cpu
TORCH := torch>=2.13,<2.14

JOBS ?= 2

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

# The stamps name what was installed: `demo` needs the base and [geo] (about 400 MB with CPU torch), `test` all extras
# that run without a GPU (about 800 MB).
$(VENV)/.base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || ( \
	  $(BIN)/python -c 'import urllib.request as u; u.urlopen("$(TORCH_CPU)/torch/", timeout=5)' 2>/dev/null \
	  && $(BIN)/pip install -q --index-url $(TORCH_CPU) '$(TORCH)' ) || true
	$(BIN)/pip install -q -e '.[geo]'
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install -q -e '.[train,qlora,serve,geo,eval,teochat,dev]'
	touch $@

demo: $(VENV)/.base
	$(BIN)/geotempo demo --out out/demo

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	# Two processes of one thread each; more where there are more cores: make test JOBS=8
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info out
