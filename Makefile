# `make quickstart`, `make check` and `make test` work on a fresh clone: they create .venv and install
# into it, and install again only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGE := .package
QUICKSTART := runs/quickstart
FULL_SIZE := runs/full_size.md
ANY_PYTHON = $(or $(wildcard $(BIN)/python),$(PYTHON))
# A file's tests stay in one process: they share its fixtures. More threads than cores wait for each
# other, in the processes that tests start, too.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart check test coverage test-pairs test-benchmarks lint docs bench gpu-check package install clean

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

# Meant to take two minutes on two cores: what starts neither Ray nor the command line.
check: lint
	$(PYTEST) -m "not slow"

# Meant to take fifteen minutes on two cores.
test: lint
	$(PYTEST)

# The whole of the tests, in twice the time: prints the files below 85 % of their lines, and the total.
coverage: $(STAMP) package
	$(PYTEST) --cov --cov-report=
	$(BIN)/coverage report --sort=cover | awk 'NR == 1 || /^TOTAL/ || $$NF + 0 < 85'

test-pairs: $(STAMP)
	$(PYTEST) -m pairs tests/configs

test-benchmarks: $(STAMP)
	$(PYTEST) -m benchmarks tests/benchmarks

lint: $(STAMP) package
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd $(PACKAGE) && MYPYPATH=. ../$(BIN)/mypy --config-file ../pyproject.toml \
		--cache-dir ../.mypy_cache -p detkds
	cd $(PACKAGE) && MYPYPATH=. ../$(BIN)/mypy --config-file ../pyproject.toml \
		--cache-dir ../.mypy_cache detkds/benchmarks/*.py
	cd $(PACKAGE) && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache --no-logo

# The reference of a search config's keys; a test fails where it and the settings differ.
docs: $(STAMP) package
	PYTHONPATH=$(PACKAGE) $(BIN)/python -m detkds.settings.reference > docs/config.md

bench: $(STAMP)
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/teacher_order.py

# On a machine without a package registry, a Python that has mmdet is enough: PYTHON=python3. Writes
# memory and time of each term at full size to $(FULL_SIZE); without a GPU it says that it skips.
gpu-check: package
	PYTHONPATH=$(PACKAGE) $(ANY_PYTHON) -m pytest -m gpu -rs tests/detectors tests/distillers
	PYTHONPATH=$(PACKAGE) $(ANY_PYTHON) benchmarks/full_size.py --need-gpu --out $(FULL_SIZE)
	PYTHONPATH=$(PACKAGE) $(ANY_PYTHON) benchmarks/full_size.py --need-gpu --out $(FULL_SIZE) \
		--family gfl --classes 1203 --batches 2 4

# A folder in which the package stands under its own name; a clone may have any name.
package:
	mkdir -p $(PACKAGE) && ln -sfn .. $(PACKAGE)/detkds

clean:
	rm -rf $(VENV) build *.egg-info runs .coverage
