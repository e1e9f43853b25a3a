PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test lint format bench clean

demo: $(VENV)/.demo
	$(BIN)/mcgm compare configs/sample.yaml -o demo
	@echo "Open demo/report.html"

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the figures of the README; the first two take minutes, the study needs its data and half an hour
bench: $(VENV)/.test
	$(BIN)/python benchmarks/clustering.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/mcgm compare configs/sample.yaml -o runs/sample
	$(BIN)/mcgm compare configs/conformers_xtb.yaml -o runs/conformers_xtb
	$(BIN)/python benchmarks/readme.py --store runs/sample --store runs/conformers_xtb

clean:
	rm -rf $(VENV) demo build

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install -c constraints.txt -e '.[test,lint]'
	touch $@
