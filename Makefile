# `make quickstart` and `make test` work on a fresh clone: they create .venv and install into it,
# and install again only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test lint bench gpu-check install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

quickstart: $(STAMP)
	$(BIN)/detkds search quickstart --work-dir runs/quickstart --resume

test: lint
	$(BIN)/python -m pytest

# mypy wants the package under its own name; a clone's folder may be called anything.
lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	mkdir -p $(VENV)/lint && ln -sfn ../.. $(VENV)/lint/detkds
	cd $(VENV)/lint && MYPYPATH=. ../bin/mypy --config-file ../../pyproject.toml --cache-dir ../mypy-cache -p detkds

bench: $(STAMP)
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/step.py

gpu-check: $(STAMP)
	$(BIN)/python -m pytest -m gpu tests

clean:
	rm -rf $(VENV) build *.egg-info runs
