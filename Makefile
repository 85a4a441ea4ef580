# Every target needs Python 3.10 or newer and make; whatever else it needs it installs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := $(VENV)/.installed-docs
SOURCES := blan_layers examples benchmarks tests docs

# Another torch than the pinned one: make test TORCH='==2.6.*', TORCH='>=2.6' for the latest, or TORCH=nightly.
TORCH ?=
CONSTRAINTS := $(if $(TORCH),$(VENV)/constraints.txt,constraints.txt)
NIGHTLY := $(if $(filter nightly,$(TORCH)),--pre --extra-index-url https://download.pytorch.org/whl/nightly/cpu)
PIP := PIP_CONSTRAINT=$(CURDIR)/$(CONSTRAINTS) $(BIN)/python -m pip install --quiet $(NIGHTLY)

# What `make dist` runs of the tests in the sdist.
TESTS ?= blan_layers tests --ignore tests/examples

.PHONY: demo test coverage bench lint types docs dist wheel version clean help

help:
	@echo "make demo    train BLAN on drawn faces (minutes on two CPU cores) and show what it learnt"
	@echo "make test    run the tests"
	@echo "make bench   measure the modules beside their peers, draw the results and write the tables"
	@echo "make docs    build the site into docs/_build/html; warnings are errors"
	@echo "make lint    ruff, rules and format        make types   mypy"
	@echo "make dist    build wheel and sdist into dist/, and test the sdist with the wheel in an environment of its own"
	@echo "make wheel   build the wheel into dist/    make coverage   run the library's tests, with the lines they miss"
	@echo "make clean   remove .venv and caches"

demo: $(STAMP)
	$(BIN)/python examples/blan_facial/train.py

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

coverage: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal --ignore tests/examples \
		--cov blan_layers --cov-report term-missing:skip-covered --cov-report html:coverage

docs: $(DOCS)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html
	@echo "The site is in docs/_build/html/index.html."

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py --suite all
	$(BIN)/python benchmarks/draw.py

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(STAMP)
	$(BIN)/mypy --strict blan_layers
	$(BIN)/mypy examples benchmarks tests

wheel: $(STAMP)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --wheel --outdir dist

dist: $(STAMP)
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	bash .ci/test-dist dist $(TESTS)

version:
	@test "$(TAG)" = "v$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' blan_layers/__init__.py)" || \
		{ echo "The tag must be v and __version__ of blan_layers/__init__.py, got '$(TAG)'." >&2; exit 1; }

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "blan-layers needs Python 3.10 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1). Name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@

$(DOCS): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make docs needs Python 3.11 or newer, .venv has $$($(BIN)/python -V 2>&1). Name one: make clean docs PYTHON=python3.12" >&2; exit 1; }
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/constraints.txt: constraints.txt | $(BIN)/python
	{ grep -v -E '^(torch|triton)==' $<; echo 'torch$(filter-out nightly,$(TORCH))'; } > $@

clean:
	rm -rf $(VENV) build dist docs/_build coverage .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
