# `make demo` and `make test` need Python 3.10 or newer and make; everything else they install into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := blan_layers examples benchmarks tests

.PHONY: demo test bench lint types wheel clean help

help:
	@echo "make demo    train BLAN on drawn faces (minutes on two CPU cores) and show what it learnt"
	@echo "make test    run the tests"
	@echo "make bench   measure the modules beside their peers, draw the results and write the tables"
	@echo "make lint    ruff, rules and format        make types   mypy"
	@echo "make wheel   build the wheel into dist/    make clean   remove .venv and caches"

demo: $(STAMP)
	$(BIN)/python examples/blan_facial/train.py

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

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

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "blan-layers needs Python 3.10 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1). Name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
