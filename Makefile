PYTHON ?= python3
VENV := .venv
PYTHON312 ?= python3.12
TORCH_SIM := .venv-torch-sim
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test test-torch-sim lint format docs bench clean

demo: $(VENV)/.demo
	$(BIN)/mcgm compare configs/sample.yaml -o demo
	@echo "Open demo/report.html"

# a file of tests at a time: what takes long to set up is then set up once
test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

# torch-sim needs Python >= 3.12 and, on Linux, the CUDA build of torch: gigabytes, in an environment of its own
test-torch-sim: $(TORCH_SIM)/.done
	$(TORCH_SIM)/bin/python -m pytest -q tests/interfaces/test_torch_sim.py
	$(TORCH_SIM)/bin/python -m pytest -q tests/test_examples.py -k with_torch_sim

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

# the figures of README and docs; suites take hours (docs/comparison.md), keep finished cells, and go on where they
# stopped: make bench SUITES=rivals DATA='sample qm7_pbe0' SETTINGS='--model.backbone painn'
SUITES ?= rivals controls levels
DATA ?= conformers_xtb
SETTINGS ?=
OTHERS = torch-kmeans==0.2.0 fast-pytorch-kmeans==0.2.2 mace-torch==0.3.16 e3nn==0.4.4 opt_einsum_fx==0.1.4 \
  opt_einsum==3.4.0 matscipy torch_ema prettytable lmdb configargparse python-hostlist gitpython gitdb smmap orjson wcwidth
COMPARED = $(foreach suite,$(SUITES),$(foreach data,$(DATA),$(suite)-$(data)))
bench: $(VENV)/.test
	$(PIP) install --no-deps --upgrade --target $(VENV)/others $(OTHERS)
	PYTHONPATH=$(VENV)/others $(BIN)/python benchmarks/clustering.py
	PYTHONPATH=$(VENV)/others $(BIN)/python benchmarks/speed_latency.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/mcgm compare configs/sample.yaml -o runs/sample
	for suite in $(SUITES); do for data in $(DATA); do \
	  $(BIN)/mcgm compare --suite $$suite --data $$data -o runs/$$suite-$$data $(SETTINGS) || exit 1; \
	done; done
	$(BIN)/python benchmarks/readme.py --store runs/sample $(COMPARED:%=--store runs/%)

clean:
	rm -rf $(VENV) $(TORCH_SIM) demo build site

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install -c constraints.txt -e '.[test,lint]'
	touch $@

$(TORCH_SIM)/.done: pyproject.toml constraints.txt
	test -x $(TORCH_SIM)/bin/python || $(PYTHON312) -m venv $(TORCH_SIM)
	$(TORCH_SIM)/bin/python -m pip install -c constraints.txt -e '.[train,torch-sim]' pytest beartype hypothesis tblite
	touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(PIP) install -c constraints.txt -e '.[docs]'
	touch $@
