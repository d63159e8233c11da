# `make quickstart` and `make test` work on a fresh clone: they create .venv and install into it,
# and install again only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGE := .package
QUICKSTART := runs/quickstart

.PHONY: quickstart test lint bench gpu-check package install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

quickstart: $(STAMP)
	$(BIN)/detkds search quickstart --work-dir $(QUICKSTART) \
		$(if $(wildcard $(QUICKSTART)/detkds.db),--resume)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP) package
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd $(PACKAGE) && MYPYPATH=. ../$(BIN)/mypy --config-file ../pyproject.toml \
		--cache-dir ../.mypy_cache -p detkds

bench: $(STAMP)
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/teacher_order.py

# Where there is no registry to install from, a Python that has mmdet will do: PYTHON=python3.
gpu-check: package
	PYTHONPATH=$(PACKAGE) $(or $(wildcard $(BIN)/python),$(PYTHON)) -m pytest -m gpu \
		tests/detectors tests/distillers

# A folder in which the package stands under its own name; a clone's may be called anything.
package:
	mkdir -p $(PACKAGE) && ln -sfn .. $(PACKAGE)/detkds

clean:
	rm -rf $(VENV) build *.egg-info runs
