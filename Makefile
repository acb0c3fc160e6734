# Two commands from a clean clone: `make quickstart` and `make test`. Nothing outside this folder is touched.
#   PYTHON=python3.12   interpreter for the virtual environment (3.11 or newer)
#   VENV=.venv          where the environment goes
SHELL = /bin/sh
PYTHON ?= python3
VENV ?= .venv
BENCH ?=

BIN = $(VENV)/bin
RECIPE = pipelines/quickstart/recipe.yaml
DATA = data/digits.parquet
RESULT = build/quickstart/train

.PHONY: help quickstart test lint bench clean
.DELETE_ON_ERROR:

help:
	@echo 'make quickstart   install into $(VENV), make the example data, build the example, name its report'
	@echo 'make test         install the test tools too; ruff, mypy and pytest'
	@echo 'make lint         ruff and mypy only'
	@echo 'make bench        run a benchmark: make bench BENCH=NAME'
	@echo 'make clean        remove $(VENV), build/, $(DATA) and caches'

quickstart: $(VENV)/.package $(DATA)
	$(BIN)/curate build $(RECIPE)
	@$(BIN)/python -c "import curation; print('report:', curation.open('$(RESULT)').manifest.path('report'))"

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: $(VENV)/.tools
	$(BIN)/python -m benchmarks $(BENCH)

$(VENV)/.package: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON): Python 3.11 or newer is needed; say e.g. make PYTHON=python3.12 quickstart" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# Dependency groups (PEP 735) are read by pip 25.1 and newer; the rule above has brought one.
$(VENV)/.tools: $(VENV)/.package
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

$(DATA): pipelines/quickstart/make_data.py $(VENV)/.package
	$(BIN)/python pipelines/quickstart/make_data.py $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis $(DATA)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
