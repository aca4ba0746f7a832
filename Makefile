# `make demo` and `make test` need nothing but Python (3.10 or newer) and make: what else is needed goes into .venv first.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TRANSFORMERS4 := .venvs/transformers4

.DEFAULT_GOAL := help
.PHONY: help install demo test test-long tiny check size bench test-pythons test-transformers4 clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 chooses the Python that .venv is made with; ARGS='-k text' goes to pytest, the demo and the benchmarks."

$(STAMP): pyproject.toml tools/install.sh
	@PYTHON='$(PYTHON)' sh tools/install.sh '$(VENV)'
	@touch $@

install: $(STAMP) ## what the other targets need, in .venv (they call it themselves)

demo: $(STAMP) ## what the library can do, on a small model, in a minute
	@$(BIN)/python examples/demo.py $(ARGS)

test: $(STAMP) ## all tests, the examples of the docstrings and the code blocks of the pages
	@$(BIN)/python -m pytest $(ARGS)

test-long: $(STAMP) ## all tests, with many more examples per property
	@NNSIGHT_GRAPH_LONG=1 $(BIN)/python -m pytest $(ARGS)

tiny: $(STAMP) ## the fast tests, under a minute: before every commit
	@NNSIGHT_GRAPH_TINY=1 $(BIN)/python -m pytest -q -x -m 'not slow' $(ARGS)

check: $(STAMP) ## ruff, mypy and the sizes
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory size

size: ## sizes of files and functions, import cycles, names that say nothing
	@$$(test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)) tools/house.py

bench: $(STAMP) ## the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

test-pythons: ## the tests that need no torch, on every Python 3.10 to 3.14 that is installed
	@sh tools/test_pythons.sh

$(TRANSFORMERS4)/.installed: pyproject.toml tools/install.sh
	@PYTHON='$(PYTHON)' sh tools/install.sh '$(TRANSFORMERS4)' 'transformers>=4.57,<5'
	@touch $@

test-transformers4: $(TRANSFORMERS4)/.installed ## the tests of language models, with transformers 4.57 instead of the newest
	@$(TRANSFORMERS4)/bin/python -m pytest -p no:cacheprovider tests/huggingface tests/model $(ARGS)

clean: ## remove what was built, cached and installed
	rm -rf $(VENV) .venvs build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
